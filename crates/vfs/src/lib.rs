//! local stub
use std::sync::Arc;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadingMode { SingleThread, MultiThread, Serialized }
pub fn threading_mode() -> ThreadingMode { ThreadingMode::Serialized }
pub const PAGE_SIZE: usize = 4096;
#[derive(Debug)] pub struct Vfs;
#[derive(Debug)] pub struct Error;
impl std::fmt::Display for Error { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("vfs") } }
impl std::error::Error for Error {}
impl Vfs { pub fn register() -> Result<Vfs, Error> { Ok(Vfs) } }
#[derive(Clone, Debug)] pub struct Page(Arc<[u8; 4096]>);
impl std::ops::Deref for Page { type Target = [u8; 4096]; fn deref(&self) -> &[u8; 4096] { &self.0 } }
#[derive(Clone, Copy, Debug)] pub struct PageNumber(pub u32);
#[derive(Clone, Debug)] pub struct DatabaseSnapshot;
impl DatabaseSnapshot { pub fn page_count(&self) -> u32 { 0 } pub fn page(&self, _: PageNumber) -> Page { Page(Arc::new([0; 4096])) } }
