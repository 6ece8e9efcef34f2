//! Which rows are alike, by way of others: disjoint sets.
//!
//! A row's root is the first row of its group, so the result does not depend on the order in which
//! pairs come. Four bytes a row.

/// Rows, each in one group.
pub struct Groups {
    parents: Vec<u32>,
    joined: u64,
}

impl Groups {
    /// Every row alone.
    pub fn new(rows: u32) -> Self {
        Self { parents: (0..rows).collect(), joined: 0 }
    }

    /// The first row of a row's group.
    pub fn root(&mut self, mut row: u32) -> u32 {
        while self.parents[row as usize] != row {
            let above = self.parents[self.parents[row as usize] as usize];
            self.parents[row as usize] = above;
            row = above;
        }
        row
    }

    /// Puts two groups together. False where it was one.
    pub fn join(&mut self, a: u32, b: u32) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        let (first, other) = (a.min(b), a.max(b));
        self.parents[other as usize] = first;
        self.joined += u64::from(first != other);
        first != other
    }

    /// How many times two groups became one: the rows that are not the first of theirs.
    pub fn joined(&self) -> u64 {
        self.joined
    }

    /// Every row's root.
    pub fn into_roots(mut self) -> Vec<u32> {
        for row in 0..self.parents.len() {
            // Parents come before their children, so theirs is a root already.
            self.parents[row] = self.parents[self.parents[row] as usize];
        }
        self.parents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_grow_together_and_their_root_is_the_first_row() {
        let mut groups = Groups::new(7);
        assert!(groups.join(5, 3) && groups.join(6, 5) && groups.join(1, 2));
        assert!(!groups.join(3, 6));
        assert_eq!(groups.root(6), 3);
        assert_eq!(groups.into_roots(), [0, 1, 1, 3, 4, 3, 3]);
        let mut chain = Groups::new(5);
        (1..5).rev().for_each(|row| assert!(chain.join(row, row - 1)));
        assert_eq!(chain.into_roots(), [0; 5]);
    }
}
