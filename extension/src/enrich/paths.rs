//! Which of many path patterns fit a path, in the time of a few look-ups: hundreds of them are asked at every open.
//!
//! Nearly all patterns that people write say one thing: this file, this name, this ending, below this directory, below
//! any directory of this name. Each of those is a key in a table. Others are tried one by one, most of them only where a
//! directory that they name is in the path.
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
    /// By a directory that a path must have somewhere.
    component: HashMap<Box<str>, Inside>,
    /// `Makefile`
    name: Keys,
    /// `*.pem`: by `pem`
    ending: Keys,
    /// `id_rsa*`
    names: Vec<(Glob, usize)>,
    rest: Vec<(Glob, usize)>,
}

type Keys = HashMap<Box<str>, Vec<usize>>;

/// What a directory of some name is for.
#[derive(Debug, Default)]
struct Inside {
    /// `*/.ssh/*`
    all: Vec<usize>,
    /// `/usr/lib/*.so`, by its longest: `usr` or `lib`
    some: Vec<(Glob, usize)>,
}

impl Inside {
    fn folded(&self) -> Self {
        Self { all: self.all.clone(), some: folded(&self.some) }
    }
}

fn folded(globs: &[(Glob, usize)]) -> Vec<(Glob, usize)> {
    globs.iter().map(|(glob, number)| (glob.folded(), *number)).collect()
}

fn is_component(text: &str) -> bool {
    !text.is_empty() && !text.contains(['*', '/'])
}

/// The longest directory that every path which fits must have, between two slashes.
fn directory_of(pattern: &str) -> Option<&str> {
    let (_, behind) = pattern.split_once('/')?;
    let (between, _) = behind.rsplit_once('/')?;
    between.split('/').filter(|text| is_component(text)).max_by_key(|text| text.len())
}

impl PathSet {
    /// Adds a pattern: one of a name, or of a path, which begins with `/` or `*`.
    pub fn add(&mut self, pattern: &str, number: usize) {
        let is_plain = |text: &str| !text.is_empty() && !text.contains('*');
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
                Some((_, Some(component))) if is_component(component) => {
                    return self.component.entry(component.into()).or_default().all.push(number);
                }
                Some((below, None)) if is_plain(below) => (&mut self.below, below),
                _ => {
                    let glob = (Glob::new(pattern), number);
                    return match directory_of(pattern) {
                        Some(directory) => self.component.entry(directory.into()).or_default().some.push(glob),
                        None => self.rest.push(glob),
                    };
                }
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
        let mut component = HashMap::<Box<str>, Inside>::new();
        for (key, inside) in &self.component {
            let Inside { all, some } = inside.folded();
            let place = component.entry(key.to_lowercase().into()).or_default();
            place.all.extend(all);
            place.some.extend(some);
        }
        Self {
            whole: keys(&self.whole),
            below: keys(&self.below),
            component,
            name: keys(&self.name),
            ending: keys(&self.ending),
            names: folded(&self.names),
            rest: folded(&self.rest),
        }
    }

    /// Hands on the number of every pattern that fits, in no order.
    pub fn each(&self, path: &str, mut take: impl FnMut(usize)) {
        let all = |keys: &Keys, key: &str, take: &mut dyn FnMut(usize)| {
            keys.get(key).into_iter().flatten().copied().for_each(take);
        };
        let fitting = |globs: &[(Glob, usize)], text: &str, take: &mut dyn FnMut(usize)| {
            globs.iter().filter(|(glob, _)| glob.fits(text)).for_each(|(_, number)| take(*number));
        };
        all(&self.whole, path, &mut take);
        let name = path.rsplit('/').next().unwrap_or(path);
        all(&self.name, name, &mut take);
        if let Some((_, ending)) = name.rsplit_once('.') {
            all(&self.ending, ending, &mut take);
        }
        // Every slash but the first ends a directory and its last component.
        let mut from = None;
        for (at, _) in path.match_indices('/') {
            if let Some(inside) = from.and_then(|from| self.component.get(path.get(from..at)?)) {
                inside.all.iter().copied().for_each(&mut take);
                fitting(&inside.some, path, &mut take);
            }
            if at > 0 {
                all(&self.below, path.get(..at).unwrap_or_default(), &mut take);
            }
            from = Some(at + 1);
        }
        fitting(&self.names, name, &mut take);
        fitting(&self.rest, path, &mut take);
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
