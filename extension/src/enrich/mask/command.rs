//! Secrets that a program's arguments give away: the argument after `--password`, and what a few programs take with
//! options that mean something else elsewhere.

use std::ops::Range;

use super::pattern::without_quotes;

/// How deep `sh -c 'sh -c ...'` is followed.
const MAX_DEPTH: usize = 4;

/// Ends of long options whose value is a secret.
#[rustfmt::skip]
const OPTIONS: &[&str] = &[
    "password", "passwd", "passphrase", "token", "secret", "api-key", "apikey", "api_key", "access-key", "secret-key",
    "auth-key", "encryption-key", "account-key", "secret-access-key",
];

/// Words that are followed by a secret, also without a dash.
const SETTINGS: &[&str] = &["aws_secret_access_key", "aws_session_token", ":_authtoken", "_authtoken"];

/// Programs that run the program behind them.
const WRAPPERS: &[&str] =
    &["sudo", "doas", "env", "exec", "command", "time", "nohup", "nice", "xargs", "then", "do", "!"];

/// Programs that somewhere in their arguments have a program to run.
const CARRIERS: &[&str] =
    &["docker", "podman", "nerdctl", "docker-compose", "kubectl", "oc", "ssh", "timeout", "watch"];

/// What an option says of a secret.
enum Taken {
    /// It is the next argument.
    Next,
    /// The next argument is `user:password`.
    NextUser,
    /// It is this argument, from here.
    From(usize),
    /// This argument is `user:password`, from here.
    UserFrom(usize),
}

/// Finds the secrets of a command line as a shell reads it.
pub(super) fn in_line(line: &str, found: &mut dyn FnMut(Range<usize>)) {
    in_text(line, 0, 0, found);
}

fn in_text(line: &str, offset: usize, depth: usize, found: &mut dyn FnMut(Range<usize>)) {
    let words: Vec<(usize, &str)> = words(line).collect();
    in_words(words.iter().map(|(_, word)| *word), depth, &mut |index, secret| {
        let start = offset + words.get(index).map_or(0, |(start, _)| *start);
        let secret = start + secret.start..start + secret.end;
        // To the shell these end a command; they are not of the secret.
        let value = line.get(secret.start - offset..secret.end - offset).unwrap_or_default();
        found(secret.start..secret.start + value.trim_end_matches([';', '|', '&', ')', '`']).len());
    });
}

/// Finds the secrets of arguments: the index of the argument and the range in it.
pub(super) fn in_words<'t>(
    words: impl Iterator<Item = &'t str>,
    depth: usize,
    found: &mut dyn FnMut(usize, Range<usize>),
) {
    let mut command = "";
    let mut login = false;
    let mut wants_command = true;
    let mut taken: Option<Taken> = None;
    for (index, word) in words.enumerate() {
        let inner = without_quotes(word, 0..word.len());
        let bare = word.get(inner.clone()).unwrap_or_default();
        let user = |start: usize| bare.get(start..).and_then(|user| user.find(':')).map(|colon| start + colon + 1);
        let (value, is_value) = match taken.take() {
            Some(Taken::Next) if !is_option(bare) => (Some(0), true),
            Some(Taken::NextUser) => (user(0), true),
            _ => {
                taken = special(command, login, bare).or_else(|| named(bare).then_some(Taken::Next));
                match taken {
                    Some(Taken::From(start)) => (Some(start), true),
                    Some(Taken::UserFrom(start)) => (user(start), true),
                    _ => (None, taken.is_some()),
                }
            }
        };
        if let Some(start) = value {
            found(index, inner.start + start..inner.end);
        }
        if word.ends_with([';', '|', '&']) {
            (command, login, wants_command) = ("", false, true);
        } else if is_value {
            // Nothing else is in it.
        } else if depth < MAX_DEPTH && bare.contains(char::is_whitespace) {
            in_text(bare, inner.start, depth + 1, &mut |secret| found(index, secret));
        } else {
            login |= bare == "login";
            // `cd x;mysql`, `$(mysql`: only a program that matters here is looked for behind a separator within a word,
            // for URLs have such characters too.
            let last = bare.rsplit([';', '|', '&', '(', '`', '{', '\'', '"']).next().unwrap_or_default();
            let name = last.rsplit('/').next().unwrap_or_default();
            let begins = wants_command && !name.contains('=') && !name.starts_with('-') && !WRAPPERS.contains(&name);
            if begins || (is_special(name) && (last.len() < bare.len() || CARRIERS.contains(&command))) {
                (command, login, wants_command) = (name, false, false);
            }
        }
    }
}

/// An option, and so no value: `--user`, `-h`. A lone dash or a longer word may be a password.
fn is_option(word: &str) -> bool {
    word.starts_with("--") || (word.starts_with('-') && word.len() == 2) || word.starts_with("id=")
}

/// An option or setting whose next argument is a secret.
fn named(word: &str) -> bool {
    // The longest name is far shorter than this; a path or a text need not be looked at.
    if word.len() > 64 {
        return false;
    }
    let lower = word.to_ascii_lowercase();
    if SETTINGS.iter().any(|setting| lower.ends_with(setting)) {
        return true;
    }
    lower.starts_with('-')
        && !lower.starts_with("--no-")
        && OPTIONS.iter().any(|end| {
            let before = lower.strip_suffix(end);
            before.is_some_and(|before| before.ends_with(['-', '_', '.']))
        })
}

/// A program with secrets in options of its own.
fn is_special(name: &str) -> bool {
    special(name, true, "-pX").or_else(|| special(name, true, "-u")).is_some() || matches!(name, "redis-cli" | "psql")
}

/// What an option of a certain program says.
fn special(command: &str, login: bool, word: &str) -> Option<Taken> {
    let attached = |option: &str| word.len() > option.len() && word.starts_with(option);
    match command {
        "mysql" | "mysqldump" | "mysqladmin" | "mysqlimport" | "mysqlcheck" | "mysqlsh" | "mariadb"
        | "mariadb-dump" | "mariadb-admin" | "7z" | "7za" | "7zz"
            if attached("-p") =>
        {
            Some(Taken::From(2))
        }
        "sshpass" if word == "-p" => Some(Taken::Next),
        "sshpass" if attached("-p") => Some(Taken::From(2)),
        "redis-cli" if word == "-a" => Some(Taken::Next),
        "zip" | "unzip" if word == "-P" => Some(Taken::Next),
        "ldapsearch" | "ldapadd" | "ldapmodify" | "ldapdelete" if word == "-w" => Some(Taken::Next),
        "docker" | "podman" | "nerdctl" | "helm" | "skopeo" | "buildah" | "oras" | "crane" | "az" | "oc"
            if login && word == "-p" =>
        {
            Some(Taken::Next)
        }
        "openssl" if attached("pass:") => Some(Taken::From(5)),
        "curl" => match word {
            "-u" | "-U" | "--user" | "--proxy-user" => Some(Taken::NextUser),
            _ if attached("--user=") => Some(Taken::UserFrom(7)),
            _ if attached("-u") || attached("-U") => Some(Taken::UserFrom(2)),
            _ => None,
        },
        "http" | "https" if matches!(word, "-a" | "--auth") => Some(Taken::NextUser),
        "wget" if attached("--http-password=") => Some(Taken::From(16)),
        _ => None,
    }
}

/// The words of a line with their places; a quote at a word's start or behind `=` holds a word together.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    // A kind of quote that does not come any more is not looked for again: the cost stays linear.
    let mut gone = [false; 2];
    std::iter::from_fn(move || {
        let rest = line.get(at..)?;
        let start = at + rest.find(|c: char| !c.is_whitespace())?;
        let word = line.get(start..)?;
        let plain = word.find(char::is_whitespace).unwrap_or(word.len());
        let end = quoted(word, plain, &mut gone).unwrap_or(plain);
        at = start + end;
        Some((start, word.get(..end)?))
    })
}

/// The end of a word that a quote holds together.
fn quoted(word: &str, plain: usize, gone: &mut [bool; 2]) -> Option<usize> {
    let head = word.get(..plain)?;
    let open = if head.starts_with(['"', '\'']) {
        0
    } else {
        head.find(['"', '\'']).filter(|at| head.get(..*at).is_some_and(|before| before.ends_with('=')))?
    };
    let quote = head.get(open..)?.chars().next()?;
    let gone = gone.get_mut(usize::from(quote == '"'))?;
    if *gone {
        return None;
    }
    let Some(length) = word.get(open + 1..)?.find(quote) else {
        *gone = true;
        return None;
    };
    // What hangs on behind the closing quote belongs to the word.
    let close = open + 1 + length + 1;
    let tail = word.get(close..)?;
    Some(close + tail.find(char::is_whitespace).unwrap_or(tail.len()))
}
