use std::io::Cursor;

use flate2::Compression;
use flate2::write::GzEncoder;
use minisign::KeyPair;

use super::*;

const SIGNATURE: &str = "name: own\ndisplay_name: Own\ncategory: cli\ndetection:\n  exe_patterns: ['*/.own/bin/own']\n";
const RULES_OF_OUR_OWN: &str = "noise: [/opt/toolchain/*]\n";

/// A place for packs, and who signs them.
struct Bench {
    folder: tempfile::TempDir,
    pair: KeyPair,
}

/// An archive of files, of whatever kind.
struct Archive(tar::Builder<GzEncoder<Vec<u8>>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast())))
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, tar::EntryType::Regular, "", content)
    }

    /// The name as it is: the crate's own way would not write what we are to refuse.
    fn entry(mut self, name: &str, kind: tar::EntryType, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn manifest(self, version: &str, files: &[(&str, &str)]) -> Self {
        let files: BTreeMap<_, _> = files.iter().map(|(name, text)| (*name, sha256(text.as_bytes()))).collect();
        let text = serde_json::json!({"name": "fleet", "version": version, "files": files}).to_string();
        self.file(MANIFEST, text.as_bytes())
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap().finish().unwrap()
    }
}

/// A pack as its makers make it.
fn pack(version: &str, files: &[(&str, &str)]) -> Archive {
    files.iter().fold(Archive::new().manifest(version, files), |all, (name, text)| all.file(name, text.as_bytes()))
}

impl Bench {
    fn new() -> Self {
        let bench =
            Self { folder: tempfile::tempdir().unwrap(), pair: KeyPair::generate_unencrypted_keypair().unwrap() };
        assert!(is_key(&bench.pair.pk.to_base64()));
        bench
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("state/packs")
    }

    fn signed(&self, archive: Archive) -> PathBuf {
        let (file, bytes) = (self.folder.path().join("fleet.tar.gz"), archive.bytes());
        let signature = minisign::sign(None, &self.pair.sk, Cursor::new(&bytes), None, None).unwrap();
        std::fs::write(&file, bytes).unwrap();
        std::fs::write(self.folder.path().join("fleet.tar.gz.minisig"), signature.into_string()).unwrap();
        file
    }

    fn install(&self, archive: Archive) -> Result<Installed, PackError> {
        install(&self.signed(archive), &self.root(), &[self.pair.pk.to_base64()], false)
    }

    /// What a refusal says; nothing is changed by it.
    fn refused(&self, archive: Archive) -> String {
        let before = self.there();
        let error = self.install(archive).unwrap_err().to_string();
        assert_eq!(self.there(), before, "{error}");
        error
    }

    /// Every name and text below the directory of packs, the hidden ones too.
    fn there(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().join("state")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                let kind = path.symlink_metadata().unwrap();
                let text = if kind.is_file() { std::fs::read_to_string(&path).unwrap() } else { String::new() };
                if kind.is_dir() {
                    folders.push(path.clone());
                }
                found.push((path, text));
            }
        }
        found.sort();
        found
    }
}

#[test]
fn a_good_pack_is_loaded_and_a_newer_one_replaces_it_whole() {
    let bench = Bench::new();
    let files = [("own.yaml", SIGNATURE), ("files.yaml", RULES_OF_OUR_OWN)];
    let done = bench.install(pack("1.9", &files)).unwrap();
    assert_eq!((done.name.as_str(), done.version.as_str(), done.files), ("fleet", "1.9", 2));
    let load = || Catalogue::load(&installed(&bench.root()));
    let row = load().rows().into_iter().find(|row| &*row.agent == "own").unwrap();
    let source = bench.root().join("fleet").join("own.yaml").display().to_string();
    assert_eq!((row.status, &*row.source), ("loaded", source.as_str()));
    assert!(Meaning::load(&installed(&bench.root())).files.is_noise("/opt/toolchain/x"));
    // The same once more, then a newer one, which has less. `tar c .` writes the directory, too.
    bench.install(pack("1.9.0", &files)).unwrap();
    let newer = SIGNATURE.replace("Own", "Newer");
    let archive = Archive::new().entry("./", tar::EntryType::Directory, "", b"");
    let archive = archive.manifest("1.10", &[("own.yaml", &newer)]).file("./own.yaml", newer.as_bytes());
    bench.install(archive).unwrap();
    let catalogue = load();
    assert_eq!(catalogue.named("own").map(|signature| signature.display_name.to_string()).as_deref(), Some("Newer"));
    assert!(catalogue.rows().iter().all(|row| row.status == "loaded"), "the manifest is no signature");
    let names = std::fs::read_dir(bench.root()).unwrap().count();
    // Of Windows' kind of links there is none.
    assert_eq!(names, if cfg!(unix) { 2 } else { 1 }, "the directory and the link to it: nothing of the older ones");
    // One's own come after it.
    let own = bench.folder.path().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("mine.yaml"), SIGNATURE.replace("Own", "Mine")).unwrap();
    let dirs = [installed(&bench.root()), vec![own]].concat();
    assert_eq!(&*Catalogue::load(&dirs).named("own").unwrap().display_name, "Mine");
}

#[test]
fn an_older_pack_needs_force() {
    let bench = Bench::new();
    let files = [("own.yaml", SIGNATURE)];
    bench.install(pack("2026.10.0", &files)).unwrap();
    for older in ["2026.9", "2026", "1.99.99", "2026.9.99"] {
        let said = bench.refused(pack(older, &files));
        assert!(
            said.contains("fleet 2026.10.0 is installed, which is newer than") && said.contains("--force"),
            "{said}"
        );
    }
    let file = bench.signed(pack("2026.9", &files));
    install(&file, &bench.root(), &[bench.pair.pk.to_base64()], true).unwrap();
    bench.install(pack("2026.9.1", &files)).unwrap();
}

#[test]
fn what_a_key_of_ours_did_not_sign_is_not_even_read() {
    let bench = Bench::new();
    let file = bench.signed(pack("1", &[("own.yaml", SIGNATURE)]));
    let other = KeyPair::generate_unencrypted_keypair().unwrap().pk.to_base64();
    let own = bench.pair.pk.to_base64();
    let refused = |keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let error = install(&file, &bench.root(), &keys, true).unwrap_err().to_string();
        assert_eq!(bench.there(), []);
        error
    };
    assert!(refused(&[]).contains("pack_keys of the configuration"));
    assert!(refused(&[&other]).contains("no key of pack_keys signed"));
    // One changed byte, wherever it is.
    let good = std::fs::read(&file).unwrap();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert!(refused(&[&own]).contains("signed this file as it is"), "{at}");
    }
    std::fs::write(&file, &good).unwrap();
    let beside = bench.folder.path().join("fleet.tar.gz.minisig");
    let signature = std::fs::read_to_string(&beside).unwrap();
    // The trusted comment is signed, too.
    std::fs::write(&beside, signature.replace("timestamp:", "timestamp:1")).unwrap();
    assert!(refused(&[&own]).contains("signed this file as it is"));
    std::fs::write(&beside, "untrusted\n").unwrap();
    assert!(refused(&[&own]).contains("is no signature of minisign"));
    std::fs::remove_file(&beside).unwrap();
    assert!(refused(&[&own]).contains("fleet.tar.gz.minisig: cannot be read"));
    std::fs::write(&beside, signature).unwrap();
    // With the key of before and the key of now.
    install(&file, &bench.root(), &[other, own], false).unwrap();
}

#[test]
fn no_path_leaves_the_directory_and_no_link_is_followed() {
    let bench = Bench::new();
    let good = [("own.yaml", SIGNATURE)];
    bench.install(pack("1", &good)).unwrap();
    for name in [
        "../own.yaml",
        "/etc/own.yaml",
        "a/own.yaml",
        "..",
        ".hidden.yaml",
        "own\u{1}.yaml",
        "a/../../own.yaml",
        "o n.yaml",
    ] {
        let said = bench.refused(pack("2", &good).file(name, SIGNATURE.as_bytes()));
        assert!(said.contains("must be a plain name"), "{name:?}: {said}");
    }
    for (kind, name) in [
        (tar::EntryType::Symlink, "link.yaml"),
        (tar::EntryType::Link, "link.yaml"),
        (tar::EntryType::Fifo, "fifo.yaml"),
        (tar::EntryType::Char, "device.yaml"),
        (tar::EntryType::Directory, "folder"),
        (tar::EntryType::Directory, "../folder"),
    ] {
        let said = bench.refused(pack("2", &good).entry(name, kind, "/etc/passwd", b""));
        assert!(said.contains("is no plain file"), "{kind:?}: {said}");
    }
}

#[test]
fn one_bad_file_and_nothing_is_installed() {
    let bench = Bench::new();
    let good = ("own.yaml", SIGNATURE);
    let bad = "name: bad\ndisplay_name: Bad\ncategory: toaster\ndetection: {}\n";
    let twin = SIGNATURE.replace("Own", "Twin");
    let large = "#".repeat(1 << 20 | 1);
    for (archive, part) in [
        (pack("1", &[good, ("bad.yaml", bad)]), "bad.yaml: 3:11: "),
        (pack("1", &[good, ("files.yaml", "noise: ['*']\n")]), "files.yaml: 1:9: "),
        (pack("1", &[good, ("twin.yaml", &twin)]), "another file of the pack has the name own"),
        (pack("1", &[good, ("README.md", "about")]), "README.md: is no signature"),
        (pack("1", &[good, ("large.yaml", &large)]), "large.yaml: is larger than 1 MiB"),
        (pack("1", &[]), "has no signatures"),
        (pack("1", &[good]).file("more.yaml", twin.as_bytes()), "more.yaml: is not in the manifest"),
        (pack("1", &[good]).file("own.yaml", twin.as_bytes()), "own.yaml: is in it twice"),
        (Archive::new().manifest("1", &[good]).file("own.yaml", twin.as_bytes()), "another SHA-256"),
        (Archive::new().manifest("1", &[good]), "own.yaml: is in the manifest, and not in the pack"),
        (Archive::new().file("own.yaml", SIGNATURE.as_bytes()), "has no manifest.json"),
        (Archive::new().file(MANIFEST, br#"{"name": "../x", "version": "1", "files": {}}"#), "name: must be"),
        (Archive::new().file(MANIFEST, br#"{"name": "x", "versoin": "1", "files": {}}"#), "versoin"),
        (pack("1.x", &[good]), "version: must be numbers"),
    ] {
        let said = bench.refused(archive);
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(bench.there(), []);
    let file = bench.folder.path().join("text.tar.gz");
    std::fs::write(&file, "no archive").unwrap();
    let signature = minisign::sign(None, &bench.pair.sk, Cursor::new("no archive"), None, None).unwrap();
    std::fs::write(bench.folder.path().join("text.tar.gz.minisig"), signature.into_string()).unwrap();
    let error = install(&file, &bench.root(), &[bench.pair.pk.to_base64()], false).unwrap_err().to_string();
    assert!(error.contains("is no tar.gz"), "{error}");
    // What would fill the memory.
    let zeroes = vec![0; 1 << 20];
    let bomb = (0..80).fold(Archive::new(), |all, n| all.file(&format!("{n}.yaml"), &zeroes));
    assert!(bench.refused(bomb).contains("is no tar.gz, or a broken one"));
}
