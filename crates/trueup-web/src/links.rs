//! Links that sign in once: made for whoever shows a credential, kept in memory until they are
//! used or have run out.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::session::{now, random_word};

/// The most links that wait; beyond, the oldest is forgotten.
const LINKS_MAX: usize = 1_000;
/// The longest that a link holds, in seconds.
const SECONDS_MAX: u32 = 86_400;

/// Links that wait for their use, in the order in which they were made.
#[derive(Default)]
pub(crate) struct Links {
    waiting: Mutex<VecDeque<Link>>,
}

struct Link {
    word: String,
    until: i64,
    pass: Pass,
}

/// What a link signs in with.
pub(crate) struct Pass {
    pub(crate) org: String,
    pub(crate) credential: String,
}

impl Links {
    /// Keeps a pass and returns the word that takes it.
    pub(crate) fn put(&self, pass: Pass, seconds: u32) -> String {
        let word = random_word::<32>();
        let until = now() + i64::from(seconds.min(SECONDS_MAX));
        let mut waiting = self.waiting.lock();
        waiting.retain(|link| link.until > now());
        if waiting.len() >= LINKS_MAX {
            waiting.pop_front();
        }
        waiting.push_back(Link { word: word.clone(), until, pass });
        word
    }

    /// Returns the org that a word would sign in to.
    pub(crate) fn org_of(&self, word: &str) -> Option<String> {
        let waiting = self.waiting.lock();
        let mut found = waiting.iter().filter(|link| link.is(word));
        found.next().map(|link| link.pass.org.clone())
    }

    /// Takes the pass of a word; once only.
    pub(crate) fn take(&self, word: &str) -> Option<Pass> {
        let mut waiting = self.waiting.lock();
        let at = waiting.iter().position(|link| link.is(word))?;
        waiting.remove(at).map(|link| link.pass)
    }
}

impl Link {
    fn is(&self, word: &str) -> bool {
        self.word == word && self.until > now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(org: usize) -> Pass {
        Pass { org: org.to_string(), credential: "a.b.c".to_owned() }
    }

    #[test]
    fn a_link_is_good_once_and_not_for_ever() {
        let links = Links::default();
        let word = links.put(pass(1), 60);
        assert_eq!(links.org_of(&word).as_deref(), Some("1"));
        assert_eq!(links.take(&word).unwrap().org, "1");
        assert!(links.take(&word).is_none());
        assert_eq!(links.org_of(&word), None);
        let late = links.put(pass(1), 0);
        assert!(links.take(&late).is_none());
    }

    #[test]
    fn the_oldest_of_too_many_is_forgotten() {
        let links = Links::default();
        let words: Vec<String> = (0..=LINKS_MAX).map(|org| links.put(pass(org), 60)).collect();
        assert!(links.take(&words[0]).is_none());
        assert_eq!(links.take(&words[1]).unwrap().org, "1");
    }
}
