//! Snapshot files: `snapshot-T-I-MS` with the payload, raw or as one LZ4 frame, and `snapshot-T-I-MS.meta`.
//!
//! | Offset | Size | Field of `.meta` |
//! |---|---|---|
//! | 0 | 8 | format = 1 |
//! | 8 | 8 | checksum of everything behind it, in the low 32 bits |
//! | 16 | 8 | index of the entry that carried the configuration |
//! | 24 | 8 | length of the configuration |
//! | 32 | | the configuration |
//!
//! Term and index stand in the name only. Whether a payload is compressed is seen from its first bytes, never from a
//! setting. A snapshot is written under temporary names and published by [`super::LogStore`], so that the entries it
//! covers are in closed segments by then: an open segment says nothing about its place.

use std::io::{self, Read, Write};

use bytes::Bytes;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::bytes_of::{to_usize, word};
use super::checksum::checksum;
use super::error::DiskError;
use super::file_system::{Disk, File};
use super::files;
use super::names::{MAX_INDEX, SnapshotName, TEMPORARY};
use super::payload::{PayloadCheck, PayloadDatabase};
use crate::{Configuration, LogIndex, SnapshotMetadata, Term};

const FORMAT: u64 = 1;
const META_HEADER_LEN: usize = 32;
const MAX_CONFIGURATION_LEN: u64 = 1024 * 1024;
/// How the file of a compressed snapshot begins: as any LZ4 frame.
pub const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Shortest LZ4 frame header.
const LZ4_MIN_HEADER_LEN: u64 = 7;
/// Most that LZ4 can save: a byte of input gives at most 255 of output.
const LZ4_MAX_RATIO: u64 = 256;
/// Buffer for reading and writing.
const CHUNK: usize = 256 * 1024;
/// Syncing in between keeps the final sync, and everybody else's, short.
const SYNC_EVERY: u64 = 32 * 1024 * 1024;

/// Why a snapshot cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// It could not be read.
    Disk(DiskError),
    /// It is damaged: the file and C's text.
    Damaged { file: String, message: String },
}

impl From<DiskError> for Unusable {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

/// Content of a `.meta` file.
pub(crate) fn encode_meta(metadata: &SnapshotMetadata) -> Vec<u8> {
    let configuration = metadata.configuration.encode();
    let mut content = Vec::with_capacity(META_HEADER_LEN + configuration.len());
    for value in [FORMAT, 0, metadata.configuration_index.0, configuration.len() as u64] {
        content.extend_from_slice(&value.to_le_bytes());
    }
    content.extend_from_slice(&configuration);
    let sum = u64::from(checksum(0, &content[16..]));
    content[8..16].copy_from_slice(&sum.to_le_bytes());
    content
}

fn decode_meta(name: &SnapshotName, content: &[u8]) -> Result<SnapshotMetadata, String> {
    let meta = name.meta();
    let field = |index: usize| word(content, index * 8);
    let (Some(format), Some(sum), Some(configuration_index), Some(len)) =
        (field(0), field(1), field(2), field(3))
    else {
        return Err(format!("short read: {} bytes instead of {META_HEADER_LEN}", content.len()));
    };
    if format != FORMAT {
        return Err(format!("load {meta}: unsupported format {format}"));
    }
    if configuration_index > MAX_INDEX {
        return Err(format!("load {meta}: configuration index {configuration_index} is too high"));
    }
    if len == 0 || len > MAX_CONFIGURATION_LEN {
        return Err(format!("load {meta}: configuration data of {len} bytes"));
    }
    let end = META_HEADER_LEN + to_usize(len);
    let Some(encoded) = content.get(META_HEADER_LEN..end) else {
        let have = content.len() - META_HEADER_LEN;
        return Err(format!("short read: {have} bytes instead of {len}"));
    };
    if u64::from(checksum(0, &content[16..end])) != sum & 0xffff_ffff {
        return Err(format!("read {meta}: checksum mismatch"));
    }
    let configuration = Configuration::decode(encoded).map_err(|error| format!("load {meta}: {error}"))?;
    Ok(SnapshotMetadata {
        index: LogIndex(name.index),
        term: Term(name.term),
        configuration,
        configuration_index: LogIndex(configuration_index),
    })
}

/// Reads the `.meta` and checks the payload as far as it can be checked.
pub(crate) fn verify<D: Disk>(disk: &D, name: &SnapshotName) -> Result<SnapshotMetadata, Unusable> {
    let metadata = read_meta(disk, name)?;
    stream(disk, name, &mut |_| {})?;
    Ok(metadata)
}

/// Like [`verify`], and says which databases are in it.
pub(crate) fn look<D: Disk>(
    disk: &D,
    name: &SnapshotName,
) -> Result<(SnapshotMetadata, Vec<PayloadDatabase>), Unusable> {
    let metadata = read_meta(disk, name)?;
    Ok((metadata, stream(disk, name, &mut |_| {})?))
}

/// Whether the payload is compressed, as its first bytes say.
pub(crate) fn is_compressed<D: Disk>(disk: &D, name: &SnapshotName) -> Result<bool, DiskError> {
    let what = format!("read {name}");
    let file = disk.open_read(&name.to_string()).map_err(DiskError::io(&what, "open"))?;
    let mut magic = [0; LZ4_MAGIC.len()];
    file.read_at(&mut magic, 0).map_err(DiskError::io(&what, "read"))?;
    Ok(magic == LZ4_MAGIC)
}

/// Reads the `.meta` only.
pub(crate) fn read_meta<D: Disk>(disk: &D, name: &SnapshotName) -> Result<SnapshotMetadata, Unusable> {
    let meta = name.meta();
    let content = files::read(disk, &meta, &format!("load {meta}"))?;
    decode_meta(name, &content).map_err(|message| Unusable::Damaged { file: meta, message })
}

/// The payload, uncompressed.
pub(crate) fn read_payload<D: Disk>(disk: &D, name: &SnapshotName) -> Result<Bytes, Unusable> {
    let mut payload = Vec::new();
    stream(disk, name, &mut |part| payload.extend_from_slice(part))?;
    Ok(payload.into())
}

/// The uncompressed payload of the snapshot at this position.
///
/// Fails if the file is damaged: its content checksum, its size and the structure of the payload are verified.
pub fn read_snapshot<D: Disk>(disk: &D, metadata: &SnapshotMetadata) -> Result<Bytes, DiskError> {
    let what = "read snapshot";
    let entries = disk.list().map_err(DiskError::io(what, "open directory"))?;
    let name = entries
        .iter()
        .filter_map(|entry| SnapshotName::parse(&entry.name))
        .filter(|name| name.term == metadata.term.0 && name.index == metadata.index.0)
        .max()
        .ok_or_else(|| {
            DiskError::NotFound(format!("no snapshot of term {} index {}", metadata.term, metadata.index))
        })?;
    read_payload(disk, &name).map_err(|error| match error {
        Unusable::Disk(error) => error,
        Unusable::Damaged { file, message } => DiskError::Corrupt { what: format!("read {file}"), message },
    })
}

/// Gives the uncompressed payload to `sink`, part by part, and says in the end what was in it.
fn stream<D: Disk>(
    disk: &D,
    name: &SnapshotName,
    sink: &mut dyn FnMut(&[u8]),
) -> Result<Vec<PayloadDatabase>, Unusable> {
    let file_name = name.to_string();
    let what = format!("read {file_name}");
    let file = disk.open_read(&file_name).map_err(DiskError::io(&what, "open"))?;
    let size = file.size().map_err(DiskError::io(&what, "stat"))?;
    let mut head = [0; 14];
    let read = file.read_at(&mut head, 0).map_err(DiskError::io(&what, "read"))?;
    let damaged = |message: String| Unusable::Damaged { file: file_name.clone(), message };
    let mut check = PayloadCheck::new();
    let mut reader = FileReader { file: &file, offset: 0 };
    let mut take = |part: &[u8]| {
        check.feed(part)?;
        sink(part);
        Ok(())
    };
    let result = if head.starts_with(&LZ4_MAGIC) {
        if size < LZ4_MIN_HEADER_LEN {
            return Err(damaged("compressed file is too short".to_owned()));
        }
        let has_size = head[4] & 0x08 != 0;
        let content_size = word(&head[..read], 6).filter(|content| has_size && *content > 0);
        match content_size {
            None => Err(Broken::Content("LZ4 frame does not tell its content size".to_owned())),
            Some(content_size) if content_size / LZ4_MAX_RATIO > size => {
                Err(Broken::Content(format!("short read: 0 bytes instead of {content_size}")))
            }
            Some(content_size) => decompress(reader, content_size, &mut take),
        }
    } else if read < LZ4_MAGIC.len() + 1 {
        Err(Broken::Content("compressed file is too short".to_owned()))
    } else {
        copy(&mut reader, &mut take)
    };
    match result {
        Ok(()) => check.finish().map_err(|message| damaged(format!("{what}: {message}"))),
        Err(Broken::Io(error)) => Err(DiskError::io(what, "read")(error).into()),
        Err(Broken::Content(message)) => Err(damaged(message)),
    }
}

enum Broken {
    Io(io::Error),
    Content(String),
}

impl From<String> for Broken {
    fn from(message: String) -> Self {
        Self::Content(message)
    }
}

type Take<'a> = dyn FnMut(&[u8]) -> Result<(), String> + 'a;

fn copy(reader: &mut impl Read, take: &mut Take<'_>) -> Result<(), Broken> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => take(&buffer[..read])?,
            Err(error) => return Err(Broken::Io(error)),
        }
    }
}

fn decompress(reader: impl Read, content_size: u64, take: &mut Take<'_>) -> Result<(), Broken> {
    let mut decoder = FrameDecoder::new(io::BufReader::with_capacity(CHUNK, reader));
    let mut buffer = vec![0; CHUNK];
    let mut produced = 0;
    while produced < content_size {
        match decoder.read(&mut buffer) {
            Ok(0) => return Err(short(produced, content_size)),
            Ok(read) => {
                produced += read as u64;
                if produced > content_size {
                    return Err(Broken::Content("LZ4 frame holds more than its content size".to_owned()));
                }
                take(&buffer[..read])?;
            }
            Err(error) => return Err(lz4_failure(error, produced, content_size)),
        }
    }
    match decoder.read(&mut buffer) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Broken::Content("LZ4 frame holds more than its content size".to_owned())),
        // Like C: all content came, only the end mark or the checksum behind it is missing.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(lz4_failure(error, produced, content_size)),
    }
}

fn short(produced: u64, content_size: u64) -> Broken {
    Broken::Content(format!("short read: {produced} bytes instead of {content_size}"))
}

fn lz4_failure(error: io::Error, produced: u64, content_size: u64) -> Broken {
    use lz4_flex::frame::Error;
    if error.raw_os_error().is_some() {
        return Broken::Io(error);
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::ContentChecksumError) => {
            Broken::Content("LZ4F_decompress ERROR_contentChecksum_invalid".to_owned())
        }
        Some(Error::ContentLengthError { .. }) => short(produced, content_size),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => short(produced, content_size),
        _ => Broken::Content("LZ4F_decompress ERROR_decompressionFailed".to_owned()),
    }
}

struct FileReader<'a, F> {
    file: &'a F,
    offset: u64,
}

impl<F: File> Read for FileReader<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Collects small writes and syncs now and then.
struct FileWriter<'a, F> {
    file: &'a F,
    offset: u64,
    synced: u64,
    buffer: Vec<u8>,
}

impl<F: File> Write for FileWriter<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > CHUNK {
            self.flush()?;
        }
        if bytes.len() >= CHUNK {
            self.file.write_at(bytes, self.offset)?;
            self.offset += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        if self.offset - self.synced >= SYNC_EVERY {
            self.file.sync()?;
            self.synced = self.offset;
        }
        Ok(())
    }
}

/// A time stamp above those of all snapshots there are: it only decides between equal term and index.
pub(crate) fn next_timestamp<D: Disk>(disk: &D) -> Result<u64, DiskError> {
    let entries = disk.list().map_err(DiskError::io("list snapshots", "open directory"))?;
    let newest = entries
        .iter()
        .filter_map(|entry| SnapshotName::parse(entry.name.strip_suffix(".meta").unwrap_or(&entry.name)))
        .map(|name| name.timestamp_ms)
        .max();
    Ok(newest.unwrap_or(0).saturating_add(1))
}

/// Writes a snapshot under temporary names, with fixed memory, and makes its content durable.
///
/// It becomes the newest snapshot with [`super::LogStore::snapshot_taken`]; until then a crash leaves nothing of it.
/// `payload` gives exactly `payload_len` bytes. Runs on any thread.
pub fn write_snapshot<D: Disk>(
    disk: &D,
    metadata: &SnapshotMetadata,
    compression: bool,
    timestamp_ms: u64,
    payload: &mut dyn Iterator<Item = Bytes>,
    payload_len: u64,
) -> Result<(), DiskError> {
    let name = SnapshotName { term: metadata.term.0, index: metadata.index.0, timestamp_ms };
    let what = format!("write {name}");
    remove_unpublished(disk, metadata)?;
    let result = write_files(disk, &name, metadata, compression, payload, payload_len, &what);
    if result.is_err() {
        // A full disk needs the space back; the error that counts is the first one.
        let _ = remove_unpublished(disk, metadata);
    }
    result.map_err(|error| error.without_space_for_new(&name.to_string()))
}

fn write_files<D: Disk>(
    disk: &D,
    name: &SnapshotName,
    metadata: &SnapshotMetadata,
    compression: bool,
    payload: &mut dyn Iterator<Item = Bytes>,
    payload_len: u64,
    what: &str,
) -> Result<(), DiskError> {
    let file = files::create_temporary(disk, &name.to_string(), what)?;
    let mut writer = FileWriter { file: &file, offset: 0, synced: 0, buffer: Vec::with_capacity(CHUNK) };
    let failed = || DiskError::io(what, "write");
    let mut written = 0;
    if compression {
        let info = FrameInfo::new()
            .block_mode(BlockMode::Linked)
            .block_size(BlockSize::Max64KB)
            .content_checksum(true)
            .content_size(Some(payload_len));
        let mut encoder = FrameEncoder::with_frame_info(info, &mut writer);
        for part in payload {
            written += part.len() as u64;
            encoder.write_all(&part).map_err(failed())?;
        }
        if written == payload_len {
            encoder.finish().map_err(|error| failed()(error.into()))?;
        }
    } else {
        for part in payload {
            written += part.len() as u64;
            writer.write_all(&part).map_err(failed())?;
        }
    }
    if written != payload_len {
        return Err(DiskError::Invalid(format!("{what}: got {written} bytes instead of {payload_len}")));
    }
    writer.flush().map_err(failed())?;
    if !planted::bug!(SnapshotNotSynced) {
        file.sync().map_err(DiskError::io(what, "fsync"))?;
    }
    files::write_temporary(disk, &name.meta(), &encode_meta(metadata), what)
}

/// Removes what [`write_snapshot`] left for this position, after a failure or when it is no longer wanted.
pub fn discard_snapshot<D: Disk>(disk: &D, metadata: &SnapshotMetadata) -> Result<(), DiskError> {
    remove_unpublished(disk, metadata)
}

fn remove_unpublished<D: Disk>(disk: &D, metadata: &SnapshotMetadata) -> Result<(), DiskError> {
    let what = "discard snapshot";
    let prefix = format!("{TEMPORARY}snapshot-{}-{}-", metadata.term, metadata.index);
    for entry in disk.list().map_err(DiskError::io(what, "open directory"))? {
        if entry.name.starts_with(&prefix) {
            files::remove_if_exists(disk, &entry.name, what)?;
        }
    }
    Ok(())
}

/// Gives the finished files of a snapshot their final names, durably.
pub(crate) fn publish<D: Disk>(disk: &D, metadata: &SnapshotMetadata) -> Result<(), DiskError> {
    let what = format!("publish snapshot {}-{}", metadata.term, metadata.index);
    let entries = disk.list().map_err(DiskError::io(&what, "open directory"))?;
    let is_ours = |name: &SnapshotName| name.term == metadata.term.0 && name.index == metadata.index.0;
    let written = entries
        .iter()
        .filter_map(|entry| SnapshotName::parse(entry.name.strip_prefix(TEMPORARY)?))
        .filter(is_ours)
        .max();
    let Some(name) = written else {
        let published =
            entries.iter().filter_map(|entry| SnapshotName::parse(&entry.name)).any(|n| is_ours(&n));
        return if published {
            Ok(())
        } else {
            Err(DiskError::NotFound(format!("{what}: no such snapshot was written")))
        };
    };
    // A `.meta` alone is ignored by every reader, so it comes first, and for good: a payload alone means damage.
    files::publish(disk, &name.meta(), &what)?;
    files::sync_directory(disk, &what)?;
    files::publish(disk, &name.to_string(), &what)?;
    files::sync_directory(disk, &what)
}
