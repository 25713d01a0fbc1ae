//! Images of whole databases: taken, checked, and assembled from the old form with a separate WAL.

use crate::error::Error;
use crate::files::lookup;
use crate::page::{PAGE_SIZE, Page, PageTable};
use crate::wal::{FRAME_HEADER_LEN, FRAME_LEN, WAL_HEADER_LEN, be_u32};

/// The committed state of a database at one moment. It shares its pages with the database, so taking and cloning it
/// costs next to nothing, and nothing that happens later changes it.
#[derive(Clone)]
pub struct DatabaseSnapshot {
    pub(crate) table: PageTable,
    pub(crate) page_count: u32,
}

impl DatabaseSnapshot {
    /// Number of pages.
    #[must_use]
    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Page `number`, counted from 1; zeros where the database has a hole or has ended.
    #[must_use]
    pub fn page(&self, number: u32) -> Page {
        lookup(&self.table, self.page_count, number).unwrap_or_else(Page::zero)
    }

    /// All pages in order.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = Page> + '_ {
        (0..self.page_count as usize).map(|index| self.page(u32::try_from(index + 1).unwrap_or(u32::MAX)))
    }
}

impl std::fmt::Debug for DatabaseSnapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("DatabaseSnapshot").field("page_count", &self.page_count).finish()
    }
}

/// Puts the frames of an old WAL image over a main file image, both as found in snapshots made before C dqlite 1.17.
/// The last frame's commit size decides the size; an empty WAL changes nothing.
///
/// # Errors
/// [`Error::Image`] if a length, page size, page number or commit size does not fit.
pub fn overlay_wal<'a>(main: &'a [u8], wal: &'a [u8]) -> Result<Vec<&'a [u8]>, Error> {
    const ZERO: &[u8] = &[0; PAGE_SIZE];
    let (pages, rest) = main.as_chunks::<PAGE_SIZE>();
    if !rest.is_empty() {
        return Err(Error::Image("the main file is not a whole number of pages"));
    }
    let mut pages: Vec<&[u8]> = pages.iter().map(<[u8; PAGE_SIZE]>::as_slice).collect();
    if wal.is_empty() {
        return Ok(pages);
    }
    if wal.len() < WAL_HEADER_LEN {
        return Err(Error::Image("the wal is shorter than its header"));
    }
    if be_u32(wal, 8) as usize != PAGE_SIZE {
        return Err(Error::Image("the wal has another page size"));
    }
    let (frames, rest) = wal[WAL_HEADER_LEN..].as_chunks::<FRAME_LEN>();
    if !rest.is_empty() {
        return Err(Error::Image("the wal is not a whole number of frames"));
    }
    let Some(last) = frames.last() else { return Ok(pages) };
    let size = be_u32(last, 4) as usize;
    if size == 0 || size > pages.len() + frames.len() + 1 {
        return Err(Error::Image("the last frame does not commit a possible size"));
    }
    let longest = pages.len() + frames.len() + 1;
    for frame in frames {
        let number = be_u32(frame, 0) as usize;
        if number == 0 || number > longest {
            return Err(Error::Image("a frame has an impossible page number"));
        }
        if pages.len() < number {
            pages.resize(number, ZERO);
        }
        pages[number - 1] = &frame[FRAME_HEADER_LEN..];
    }
    pages.resize(size, ZERO);
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(frames: &[(u32, u32, u8)]) -> Vec<u8> {
        let mut wal = vec![0; WAL_HEADER_LEN];
        crate::wal::put_be_u32(&mut wal, 8, 4096);
        for (number, size, fill) in frames {
            let start = wal.len();
            wal.resize(start + FRAME_HEADER_LEN, 0);
            crate::wal::put_be_u32(&mut wal, start, *number);
            crate::wal::put_be_u32(&mut wal, start + 4, *size);
            wal.resize(start + FRAME_LEN, *fill);
        }
        wal
    }

    #[test]
    fn frames_of_an_old_wal_override_pages_and_the_last_decides_the_size() {
        let main = [vec![1; PAGE_SIZE], vec![2; PAGE_SIZE], vec![3; PAGE_SIZE]].concat();
        let wal = wal(&[(2, 0, 7), (4, 4, 8), (2, 2, 9)]);
        let pages = overlay_wal(&main, &wal).unwrap();
        assert_eq!(pages.iter().map(|page| page[0]).collect::<Vec<_>>(), [1, 9]);
        assert_eq!(overlay_wal(&main, &[]).unwrap().len(), 3);
        assert_eq!(overlay_wal(&main, &wal[..WAL_HEADER_LEN]).unwrap().len(), 3);
    }

    #[test]
    fn impossible_old_wals_are_refused() {
        let main = vec![1; PAGE_SIZE];
        for (main, wal) in [
            (&main[..4095], vec![]),
            (&main[..], vec![0; 31]),
            (&main[..], vec![0; 32]),
            (&main[..], wal(&[(1, 0, 7)])),
            (&main[..], wal(&[(0, 1, 7)])),
            (&main[..], wal(&[(9, 1, 7)])),
            (&main[..], wal(&[(1, 9, 7)])),
            (&main[..], wal(&[(1, 1, 7)])[..99].to_vec()),
        ] {
            assert!(overlay_wal(main, &wal).is_err());
        }
    }
}
