//! A vector whose entries keep their index.

/// Values under keys that the slab gives out, lowest free key first in, last out.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Option<usize>,
    len: usize,
}

#[derive(Debug)]
enum Entry<T> {
    Used(T),
    Free(Option<usize>),
}

impl<T> Slab<T> {
    /// An empty slab; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new(), free: None, len: 0 }
    }

    /// Stores `value` and gives its key.
    pub fn insert(&mut self, value: T) -> usize {
        self.len += 1;
        if let Some(key) = self.free {
            if let Entry::Free(next) = std::mem::replace(&mut self.entries[key], Entry::Used(value))
            {
                self.free = next;
            }
            return key;
        }
        self.entries.push(Entry::Used(value));
        self.entries.len() - 1
    }

    /// Takes the value under `key` out.
    pub fn remove(&mut self, key: usize) -> Option<T> {
        let entry = self.entries.get_mut(key)?;
        if matches!(entry, Entry::Free(_)) {
            return None;
        }
        let Entry::Used(value) = std::mem::replace(entry, Entry::Free(self.free)) else {
            return None;
        };
        self.free = Some(key);
        self.len -= 1;
        Some(value)
    }

    /// The value under `key`.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        match self.entries.get_mut(key) {
            Some(Entry::Used(value)) => Some(value),
            _ => None,
        }
    }

    /// All values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|entry| match entry {
            Entry::Used(value) => Some(value),
            Entry::Free(_) => None,
        })
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_stable_and_used_again() {
        let mut slab = Slab::new();
        let keys: Vec<usize> = (0..4).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.remove(keys[1]), Some(1));
        assert_eq!(slab.remove(keys[1]), None);
        assert_eq!(slab.remove(keys[2]), Some(2));
        assert_eq!(slab.get_mut(keys[3]), Some(&mut 3));
        assert_eq!(slab.insert(9), keys[2]);
        assert_eq!(slab.insert(8), keys[1]);
        assert_eq!(slab.insert(7), 4);
        assert_eq!(slab.iter_mut().map(|value| *value).collect::<Vec<_>>(), [0, 8, 9, 3, 7]);
        assert_eq!((slab.len(), slab.is_empty()), (5, false));
    }
}
