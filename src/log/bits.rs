//! Sets of small numbers of which thousands are kept that differ in little: their pages are shared until
//! one is written.
//!
//! Owns pages, and counts what they take. Must never be changed through another set that shares them.

use std::rc::Rc;

use super::chunk::LiveBytes;

const WORDS: usize = 64;
/// Numbers of a page.
pub(super) const PAGE_BITS: u32 = 64 * WORDS as u32;

/// A set of numbers from 0 on. Copies share all pages.
pub(super) struct Bits {
    /// Pages that are not there are empty.
    pages: Vec<Rc<Page>>,
    live: LiveBytes,
    /// What the list of pages has added to `live`.
    counted: usize,
}

struct Page {
    words: [u64; WORDS],
    live: LiveBytes,
}

impl Bits {
    /// The empty set. What it takes, and what its copies do, is counted in `live`.
    pub(super) fn new(live: LiveBytes) -> Bits {
        Bits { pages: Vec::new(), live, counted: 0 }
    }

    /// An empty set that is counted along with this one.
    pub(super) fn another(&self) -> Bits {
        Bits::new(self.live.clone())
    }

    /// Puts a number in if it is not there, and takes it out if it is.
    pub(super) fn toggle(&mut self, number: u32) {
        let page = (number / PAGE_BITS) as usize;
        while self.pages.len() <= page {
            self.pages.push(Page::new([0; WORDS], &self.live));
        }
        self.count();
        let bit = number % PAGE_BITS;
        Rc::make_mut(&mut self.pages[page]).words[bit as usize / 64] ^= 1 << (bit % 64);
    }

    /// Whether a number is in it.
    pub(super) fn has(&self, number: u32) -> bool {
        let bit = number % PAGE_BITS;
        self.word(number / PAGE_BITS, bit as usize / 64) & 1 << (bit % 64) != 0
    }

    /// Beyond all numbers in it.
    pub(super) fn end(&self) -> u32 {
        self.pages.len() as u32 * PAGE_BITS
    }

    /// Whether two sets have one page in common, so that they are known not to differ there.
    pub(super) fn shares(&self, page: u32, other: &Bits) -> bool {
        match (self.pages.get(page as usize), other.pages.get(page as usize)) {
            (Some(one), Some(other)) => Rc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Has the page of `other` from now on, which is equal: one of the two is freed, if nobody else has it.
    pub(super) fn share(&mut self, page: u32, other: &Bits) {
        if let (Some(mine), Some(other)) =
            (self.pages.get_mut(page as usize), other.pages.get(page as usize))
        {
            *mine = other.clone();
        }
    }

    /// The first number of a page that is in one set and not in the other, nor in `without`; from `from` on
    /// (counted from the page's first).
    pub(super) fn first_difference(
        &self,
        page: u32,
        from: u32,
        other: &Bits,
        without: Option<&Bits>,
    ) -> Option<u32> {
        let mut at = from as usize / 64;
        let mut mask = u64::MAX << (from % 64);
        while at < WORDS {
            let left_out = without.map_or(0, |without| without.word(page, at));
            let differing = (self.word(page, at) ^ other.word(page, at)) & mask & !left_out;
            if differing != 0 {
                return Some(at as u32 * 64 + differing.trailing_zeros());
            }
            (at, mask) = (at + 1, u64::MAX);
        }
        None
    }

    /// Adds to `sum` the numbers of a page by which the sets differ; all of them, if there is no other.
    pub(super) fn add_differences(&self, page: u32, other: Option<&Bits>, sum: &mut [u64; WORDS]) {
        for (at, sum) in sum.iter_mut().enumerate() {
            *sum |= self.word(page, at) ^ other.map_or(0, |other| other.word(page, at));
        }
    }

    /// Bytes of the pages, shared ones included.
    pub(super) fn bytes(&self) -> usize {
        self.pages.len() * size_of::<Page>()
    }

    /// Bytes of the pages that it does not share with `other`.
    pub(super) fn bytes_beside(&self, other: &Bits) -> usize {
        (0..self.pages.len() as u32).filter(|&page| !self.shares(page, other)).count()
            * size_of::<Page>()
    }

    fn word(&self, page: u32, at: usize) -> u64 {
        self.pages.get(page as usize).map_or(0, |page| page.words[at])
    }

    fn count(&mut self) {
        let bytes = self.pages.capacity() * size_of::<Rc<Page>>();
        if bytes != self.counted {
            self.live.set(self.live.get() + bytes - self.counted);
            self.counted = bytes;
        }
    }
}

impl Clone for Bits {
    fn clone(&self) -> Bits {
        let mut copy = Bits { pages: self.pages.clone(), live: self.live.clone(), counted: 0 };
        copy.count();
        copy
    }
}

impl Drop for Bits {
    fn drop(&mut self) {
        self.live.set(self.live.get() - self.counted);
    }
}

impl Page {
    fn new(words: [u64; WORDS], live: &LiveBytes) -> Rc<Page> {
        live.set(live.get() + size_of::<Page>());
        Rc::new(Page { words, live: live.clone() })
    }
}

impl Clone for Page {
    fn clone(&self) -> Page {
        self.live.set(self.live.get() + size_of::<Page>());
        Page { words: self.words, live: self.live.clone() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.live.set(self.live.get() - size_of::<Page>());
    }
}
