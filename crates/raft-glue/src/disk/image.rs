//! Content of a file in memory, sector by sector, and what a power failure makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::bytes_of::{is_zero, to_usize};
use super::segment::SECTOR;

pub(super) const SECTOR_LEN: u64 = SECTOR as u64;

/// A file as readers see it and as a power failure is certain to leave it.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) live: Image,
    durable: Image,
    /// Sectors of `live` that may differ from those of `durable`.
    changed: BTreeSet<u64>,
    /// Open files; an unlinked file stays readable through them.
    pub(super) handles: usize,
}

/// Sectors that were never written read as zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) size: u64,
    sectors: BTreeMap<u64, Arc<[u8; SECTOR]>>,
}

impl Image {
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let available = to_usize(self.size.saturating_sub(offset)).min(buffer.len());
        let mut filled = 0;
        while filled < available {
            let at = offset + filled as u64;
            let within = to_usize(at % SECTOR_LEN);
            let part = (SECTOR - within).min(available - filled);
            let target = &mut buffer[filled..filled + part];
            match self.sectors.get(&(at / SECTOR_LEN)) {
                Some(sector) => target.copy_from_slice(&sector[within..within + part]),
                None => target.fill(0),
            }
            filled += part;
        }
        available
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = to_usize(at % SECTOR_LEN);
            let part = (SECTOR - within).min(bytes.len() - done);
            let source = &bytes[done..done + part];
            done += part;
            // Preallocated files are nearly all zeros.
            if is_zero(source) && !self.sectors.contains_key(&(at / SECTOR_LEN)) {
                continue;
            }
            let sector = self.sectors.entry(at / SECTOR_LEN).or_insert_with(|| Arc::new([0; SECTOR]));
            Arc::make_mut(sector)[within..within + part].copy_from_slice(source);
        }
        self.size = self.size.max(offset + bytes.len() as u64);
    }

    pub(super) fn resize(&mut self, size: u64) {
        if size < self.size {
            self.sectors.retain(|number, _| number * SECTOR_LEN < size);
            let within = to_usize(size % SECTOR_LEN);
            if within > 0
                && let Some(sector) = self.sectors.get_mut(&(size / SECTOR_LEN))
            {
                Arc::make_mut(sector)[within..].fill(0);
            }
        }
        self.size = size;
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; to_usize(self.size)];
        self.read(&mut bytes, 0);
        bytes
    }
}

impl Content {
    /// A file with the same content now and after a power failure.
    pub(super) fn synced(image: Image) -> Self {
        Self { live: image.clone(), durable: image, changed: BTreeSet::new(), handles: 0 }
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        self.live.write(bytes, offset);
        if !bytes.is_empty() {
            self.changed.extend(offset / SECTOR_LEN..=(offset + bytes.len() as u64 - 1) / SECTOR_LEN);
        }
    }

    pub(super) fn resize(&mut self, size: u64) {
        if size < self.live.size {
            let cut = self.live.sectors.range(size / SECTOR_LEN..).map(|(number, _)| *number);
            self.changed.extend(cut);
        }
        self.live.resize(size);
    }

    pub(super) fn sync(&mut self) {
        for number in std::mem::take(&mut self.changed) {
            match self.live.sectors.get(&number) {
                Some(sector) => self.durable.sectors.insert(number, Arc::clone(sector)),
                None => self.durable.sectors.remove(&number),
            };
        }
        self.durable.size = self.live.size;
    }

    /// What a power failure leaves.
    pub(super) fn survivor(&self, random: &mut Random) -> Image {
        let mut image = Image { size: 0, sectors: self.durable.sectors.clone() };
        for number in &self.changed {
            let live = self.live.sectors.get(number);
            if self.durable.sectors.get(number) == live || !random.coin() {
                continue;
            }
            match live {
                Some(live) => image.sectors.insert(*number, Arc::clone(live)),
                None => image.sectors.remove(number),
            };
        }
        let size = if random.coin() { self.live.size } else { self.durable.size };
        image.size = u64::MAX;
        image.resize(size);
        image
    }
}

/// SplitMix64.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
