//! Which of many path patterns fit a path, in the time of a few look-ups: hundreds of them are asked at every open.
//!
//! Nearly all patterns that people write say one thing: this file, this name, this ending, below this directory, below
//! any directory of this name. Each of those is a key in a table. What is left is tried one by one.
//!
//! `*` is any run of characters, `/` included. A pattern without `/` is held against the last component, any other against
//! the whole path.

use std::collections::HashMap;

use crate::identify::Glob;

/// Patterns, each with a number.
#[derive(Debug, Default)]
pub struct PathSet {
    /// `/etc/shadow`
    whole: Keys,
    /// `/proc/*`: by `/proc`
    below: Keys,
    /// `*/.ssh/*`: by `.ssh`
    component: Keys,
    /// `Makefile`
    name: Keys,
    /// `*.pem`: by `pem`
    ending: Keys,
    /// `id_rsa*`
    names: Vec<(Glob, usize)>,
    rest: Vec<(Glob, usize)>,
}

type Keys = HashMap<Box<str>, Vec<usize>>;

impl PathSet {
    /// Adds a pattern: one of a name, or of a path, which begins with `/` or `*`.
    pub fn add(&mut self, pattern: &str, number: usize) {
        let is_plain = |text: &str| !text.is_empty() && !text.contains('*');
        let is_component = |text: &str| is_plain(text) && !text.contains('/');
        let (keys, key) = if is_component(pattern) {
            (&mut self.name, pattern)
        } else if !pattern.contains('/') {
            match pattern.strip_prefix("*.") {
                Some(ending) if is_plain(ending) && !ending.contains('.') => (&mut self.ending, ending),
                _ => return self.names.push((Glob::new(pattern), number)),
            }
        } else if is_plain(pattern) {
            (&mut self.whole, pattern)
        } else {
            match pattern.strip_suffix("/*").map(|below| (below, below.strip_prefix("*/"))) {
                Some((_, Some(component))) if is_component(component) => (&mut self.component, component),
                Some((below, None)) if is_plain(below) => (&mut self.below, below),
                _ => return self.rest.push((Glob::new(pattern), number)),
            }
        };
        keys.entry(key.into()).or_default().push(number);
    }

    /// The same patterns for paths of Windows in their plain form, which has no capitals.
    pub fn folded(&self) -> Self {
        let keys = |keys: &Keys| {
            let mut folded = Keys::new();
            for (key, numbers) in keys {
                folded.entry(key.to_lowercase().into()).or_default().extend(numbers);
            }
            folded
        };
        let globs = |globs: &[(Glob, usize)]| globs.iter().map(|(glob, number)| (glob.folded(), *number)).collect();
        Self {
            whole: keys(&self.whole),
            below: keys(&self.below),
            component: keys(&self.component),
            name: keys(&self.name),
            ending: keys(&self.ending),
            names: globs(&self.names),
            rest: globs(&self.rest),
        }
    }

    /// Hands on the number of every pattern that fits, in no order.
    pub fn each(&self, path: &str, mut take: impl FnMut(usize)) {
        let mut all = |keys: &Keys, key: &str| keys.get(key).into_iter().flatten().copied().for_each(&mut take);
        all(&self.whole, path);
        let name = path.rsplit('/').next().unwrap_or(path);
        all(&self.name, name);
        if let Some((_, ending)) = name.rsplit_once('.') {
            all(&self.ending, ending);
        }
        // Every slash but the first ends a directory and its last component.
        let mut from = None;
        for (at, _) in path.match_indices('/') {
            if let Some(component) = from.and_then(|from| path.get(from..at)) {
                all(&self.component, component);
            }
            if at > 0 {
                all(&self.below, path.get(..at).unwrap_or_default());
            }
            from = Some(at + 1);
        }
        for (globs, text) in [(&self.names, name), (&self.rest, path)] {
            globs.iter().filter(|(glob, _)| glob.fits(text)).for_each(|(_, number)| take(*number));
        }
    }

    /// Whether any fits.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        let mut holds = false;
        self.each(path, |_| holds = true);
        holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns() -> impl Strategy<Value = String> {
        prop_oneof!["[/*][ab./*]{0,6}", "/[ab]/\\*", "\\*/[ab.]{1,2}/\\*", "[ab.*]{1,3}", "\\*\\.[ab]{1,2}"]
    }

    proptest! {
        /// The same patterns fit as one by one.
        #[test]
        fn agrees_with_each_pattern_alone(patterns in prop::collection::vec(patterns(), 0..12), path in "/?[ab./]{0,10}") {
            let mut set = PathSet::default();
            patterns.iter().enumerate().for_each(|(number, pattern)| set.add(pattern, number));
            let mut got = Vec::new();
            set.each(&path, |number| got.push(number));
            got.sort_unstable();
            got.dedup();
            let name = path.rsplit('/').next().unwrap();
            let fits = |(number, pattern): (usize, &String)| {
                let text = if pattern.contains('/') { path.as_str() } else { name };
                Glob::new(pattern).matches(text).then_some(number)
            };
            let wanted: Vec<_> = patterns.iter().enumerate().filter_map(fits).collect();
            prop_assert_eq!(got, wanted);
        }
    }
}
