//! Whose word is believed: judged by what was believed before. It asks nobody.

use std::collections::HashSet;

use super::word::Word;
use crate::config::Endpoint;

/// What the last one said that was believed.
#[derive(Default)]
pub struct Believed {
    /// All nodes that it named.
    pub nodes: Vec<Endpoint>,
    pub ids: HashSet<String>,
    pub epoch: u64,
}

impl Believed {
    pub fn of(word: &Word) -> Self {
        let primaries = word.ranges.iter().map(|(.., shard)| &shard.primary);
        let replicas = word.ranges.iter().flat_map(|(.., shard)| &shard.replicas);
        let nodes: HashSet<_> = primaries.chain(replicas).cloned().collect();
        Self {
            nodes: nodes.into_iter().collect(),
            ids: word.ids.clone(),
            epoch: word.epoch,
        }
    }

    /// `Err`: why it is not believed.
    pub fn judge(&self, word: &Word) -> Result<(), String> {
        if !self.ids.is_empty() && self.ids.is_disjoint(&word.ids) {
            return Err("it belongs to another cluster".to_owned());
        }
        if word.epoch < self.epoch {
            return Err(format!(
                "its map is old, of epoch {} and not {}",
                word.epoch, self.epoch
            ));
        }
        Ok(())
    }

    /// `others`: what was said by nodes that were named and are not believed, of `asked` that were. The last word of the cluster
    /// to which they all belong, if they are most of those asked.
    pub fn made_anew(&self, others: Vec<Word>, asked: usize) -> Option<Word> {
        let serves = |word: &&Word| word.is_ok && !word.ranges.is_empty();
        let last = others.iter().filter(serves).max_by_key(|word| word.epoch)?;
        let agree = others.iter().all(|word| !word.ids.is_disjoint(&last.ids));
        let is_other = self.ids.is_disjoint(&last.ids);
        (agree && is_other && 2 * others.len() > asked).then(|| last.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::topology::Shard;

    fn says(ids: &[&str], epoch: u64) -> Word {
        Word {
            epoch,
            is_ok: true,
            ranges: Vec::new(),
            failed: Vec::new(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    #[test]
    fn a_node_that_was_cut_off_and_one_of_another_cluster_are_not_believed() {
        let mut believed = Believed::default();
        for (ids, epoch) in [(["a", "b"], 0), (["b", "c"], 7), (["b", "c"], 7)] {
            let word = says(&ids, epoch);
            assert_eq!(believed.judge(&word), Ok(()), "the first one is, and then who is known");
            believed = Believed::of(&word);
        }
        let refused = |ids: &[&str], epoch| believed.judge(&says(ids, epoch)).unwrap_err();
        assert!(refused(&["b", "c"], 6).contains("old"));
        assert!(refused(&["x", "y"], 9).contains("another cluster"));
    }

    #[test]
    fn a_cluster_was_made_anew_if_most_of_its_nodes_belong_to_one_other() {
        let believed = Believed::of(&says(&["a", "b", "c"], 7));
        let serves = |ids: &[&str], epoch| {
            let node = Endpoint::local(1);
            let replicas = Vec::new();
            let shard = Shard {
                primary: node,
                replicas,
            };
            Word {
                ranges: vec![(0, 16383, shard)],
                ..says(ids, epoch)
            }
        };
        let anew = |words: &[Word], asked| believed.made_anew(words.to_vec(), asked).map(|word| word.epoch);
        assert_eq!(anew(&[serves(&["x", "y"], 1), serves(&["y", "x"], 2)], 3), Some(2));
        assert_eq!(
            anew(&[serves(&["x", "y"], 1)], 3),
            None,
            "an address may be another's by now"
        );
        assert_eq!(
            anew(&[serves(&["x"], 1), serves(&["y"], 2)], 2),
            None,
            "they do not know each other yet"
        );
        assert_eq!(
            anew(&[says(&["x"], 1), says(&["x"], 1)], 2),
            None,
            "it serves nothing yet"
        );
        assert_eq!(
            anew(&[serves(&["a", "b"], 1), serves(&["a", "b"], 1)], 2),
            None,
            "cut off, all of them"
        );
    }
}
