//! Registration with SQLite, and the list of databases.
//!
//! A VFS is registered under a name of its own and never as the default. It stays registered until the [`Vfs`] and the
//! last connection are gone, since SQLite uses it as long as a connection is open.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libsqlite3_sys as ffi;

use crate::connection::Connection;
use crate::database::Database;
use crate::error::{Error, SqlError};
use crate::handle::Handle;
use crate::name::DatabaseName;
use crate::options::{Options, Settings};
use crate::shim;
use crate::temporary::Temporary;
use crate::turns;

/// SQLite versions from here on have all that is used.
const OLDEST_SQLITE: c_int = 3_037_000;
const MAX_PATHNAME: c_int = 512;

/// Databases in the order of their first use.
#[derive(Default)]
struct Databases {
    order: Vec<Arc<Database>>,
    by_name: HashMap<DatabaseName, Arc<Database>>,
}

/// What the callbacks find through the VFS's application data.
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    databases: Mutex<Databases>,
    generations: Arc<AtomicU64>,
    /// What xGetLastError answers.
    pub(crate) last_error: AtomicI32,
    /// SQLite's VFS for temporary files.
    pub(crate) unix: *mut ffi::sqlite3_vfs,
    /// What they take together.
    pub(crate) temporary: Arc<Temporary>,
}

// SAFETY: `unix` points to a VFS that SQLite keeps for the life of the process and whose fields we only read.
unsafe impl Send for Shared {}
// SAFETY: as above; everything else is synchronized by itself.
unsafe impl Sync for Shared {}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Databases> {
        self.databases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, name: &DatabaseName) -> Option<Arc<Database>> {
        self.lock().by_name.get(name).cloned()
    }

    fn find_or_create(&self, databases: &mut Databases, name: &DatabaseName) -> Arc<Database> {
        if let Some(database) = databases.by_name.get(name) {
            return Arc::clone(database);
        }
        let database =
            Database::create(name.clone(), Arc::clone(&self.settings), Arc::clone(&self.generations));
        let database = Arc::new(database);
        databases.order.push(Arc::clone(&database));
        databases.by_name.insert(name.clone(), Arc::clone(&database));
        database
    }

    /// Opens a handle; under the mutex, so that the database cannot be removed in between.
    pub(crate) fn open_handle(
        &self,
        name: &DatabaseName,
        create: bool,
        exclusive: bool,
    ) -> Result<Handle, i32> {
        let mut databases = self.lock();
        let database = match databases.by_name.get(name) {
            Some(_) if create && exclusive => return Err(libc::EEXIST),
            Some(database) => Arc::clone(database),
            None if create => self.find_or_create(&mut databases, name),
            None => return Err(libc::ENOENT),
        };
        Ok(Handle::open(database))
    }
}

/// The registered VFS; unregisters itself when nobody needs it any more.
pub(crate) struct Registration {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: CString,
    raw: *mut ffi::sqlite3_vfs,
}

// SAFETY: `raw` is a heap object that only SQLite changes, under its own mutex.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Drop for Registration {
    fn drop(&mut self) {
        let unregister = || {
            // SAFETY: `raw` was registered and is still allocated.
            unsafe { ffi::sqlite3_vfs_unregister(self.raw) }
        };
        turns::call(unregister);
        // SAFETY: it came from `Box::into_raw`, SQLite has forgotten it, and no connection is left.
        drop(unsafe { Box::from_raw(self.raw) });
    }
}

/// The databases of one node.
pub struct Vfs {
    registration: Arc<Registration>,
}

impl std::fmt::Debug for Vfs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Vfs").field("name", &self.registration.name).finish_non_exhaustive()
    }
}

impl Vfs {
    /// Registers a VFS with default [`Options`].
    ///
    /// # Errors
    /// SQLite is too old, lacks the `unix` VFS, or refuses.
    pub fn register() -> Result<Self, Error> {
        Self::register_with(Options::default())
    }

    /// Registers a VFS.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_with(options: Options) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // SAFETY: takes no arguments and is safe to call at any time.
        let version = unsafe { ffi::sqlite3_libversion_number() };
        if version < OLDEST_SQLITE {
            return Err(Error::UnsupportedSqlite(version.to_string()));
        }
        // SAFETY: safe to call any number of times; it is what every sqlite3_open does.
        let code = unsafe { ffi::sqlite3_initialize() };
        if code != ffi::SQLITE_OK {
            return Err(Error::Register(code));
        }
        // SAFETY: the name is a C string.
        let unix = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
        if unix.is_null() {
            return Err(Error::NoUnixVfs);
        }
        // SAFETY: SQLite returned a valid VFS that lives as long as the process.
        let unix_file_len = unsafe { (*unix).szOsFile };
        let name = CString::new(format!("dqlite-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
            .expect("digits and letters contain no NUL");
        let shared = Arc::new(Shared {
            settings: Arc::new(Settings {
                environment: options.environment,
                max_transaction_bytes: options.max_transaction_bytes,
                checkpoint_threshold: options.checkpoint_threshold,
                sqlite_version: u32::try_from(version).unwrap_or(0),
            }),
            databases: Mutex::default(),
            generations: Arc::new(AtomicU64::new(1)),
            last_error: AtomicI32::new(0),
            unix,
            temporary: Arc::new(Temporary::new(options.max_temporary_bytes, options.temporary_directory)),
        });
        let raw = Box::into_raw(Box::new(ffi::sqlite3_vfs {
            iVersion: 2,
            szOsFile: shim::file_len(unix_file_len),
            mxPathname: MAX_PATHNAME,
            pNext: std::ptr::null_mut(),
            zName: name.as_ptr(),
            pAppData: Arc::as_ptr(&shared).cast_mut().cast(),
            ..shim::vfs_methods()
        }));
        let registration = Registration { shared, name, raw };
        // SAFETY: `raw` is complete, and what it points to lives as long as the registration.
        let code = unsafe { ffi::sqlite3_vfs_register(raw, 0) };
        if code != ffi::SQLITE_OK {
            return Err(Error::Register(code));
        }
        Ok(Self { registration: Arc::new(registration) })
    }

    /// Name under which SQLite knows the VFS.
    #[must_use]
    pub fn name(&self) -> &CStr {
        &self.registration.name
    }

    /// The database of that name, if there is one.
    #[must_use]
    pub fn database(&self, name: &DatabaseName) -> Option<Arc<Database>> {
        self.registration.shared.find(name)
    }

    /// The database of that name, made if there is none.
    #[must_use]
    pub fn get_or_create(&self, name: &DatabaseName) -> Arc<Database> {
        let shared = &self.registration.shared;
        shared.find_or_create(&mut shared.lock(), name)
    }

    /// All databases in the order of their first use.
    #[must_use]
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.registration.shared.lock().order.clone()
    }

    /// Bytes of the frames in all WALs: what writers have added and readers keep.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        self.databases().iter().map(|database| database.wal_bytes()).sum()
    }

    /// Bytes of all temporary files that are open.
    #[must_use]
    pub fn temporary_bytes(&self) -> u64 {
        self.registration.shared.temporary.used_bytes()
    }

    /// Forgets the database if its committed state is that of a deleted one, nothing is speculative and no connection
    /// is open. Returns whether it is gone.
    pub fn remove_if_deleted(&self, name: &DatabaseName) -> bool {
        self.remove_idle_if(name, Database::is_deleted)
    }

    /// Forgets the database if nothing was ever committed to it, nothing is speculative and no connection is open.
    /// Returns whether it is gone.
    pub fn remove_if_pristine(&self, name: &DatabaseName) -> bool {
        self.remove_idle_if(name, Database::is_pristine)
    }

    fn remove_idle_if(&self, name: &DatabaseName, condition: impl FnOnce(&Database) -> bool) -> bool {
        let mut databases = self.registration.shared.lock();
        let Some(database) = databases.by_name.get(name) else { return false };
        if !condition(database) || database.speculative_len() > 0 || database.open_handles() > 0 {
            return false;
        }
        databases.by_name.remove(name);
        databases.order.retain(|database| database.name() != name);
        true
    }

    /// Forgets the database whatever its state, for example because a snapshot does not contain it. Connections stay
    /// safe to use; their writes are refused.
    pub fn remove(&self, name: &DatabaseName) -> bool {
        let mut databases = self.registration.shared.lock();
        let Some(database) = databases.by_name.remove(name) else { return false };
        databases.order.retain(|database| database.name() != name);
        database.fence();
        true
    }

    /// Opens a connection to the current generation of a database, which is made if there is none.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(&self, name: &DatabaseName) -> Result<Connection, SqlError> {
        Connection::open(&self.registration, name)
    }
}
