//! Who may change a file of Windows, by its security descriptor as text (SDDL).
//!
//! The text is the system's own (`ConvertSecurityDescriptorToStringSecurityDescriptorW`), so that what decides is pure and
//! tested everywhere. Its format: <https://learn.microsoft.com/windows/win32/secauthz/security-descriptor-string-format> and
//! <https://learn.microsoft.com/windows/win32/secauthz/ace-strings>.

/// What may be done to a file or directory: bits of an access mask
/// (<https://learn.microsoft.com/windows/win32/fileio/file-access-rights-constants>).
const WRITE_DATA: u32 = 0x2; // FILE_ADD_FILE of a directory
const APPEND_DATA: u32 = 0x4; // FILE_ADD_SUBDIRECTORY
const WRITE_EA: u32 = 0x10;
const DELETE_CHILD: u32 = 0x40;
const WRITE_ATTRIBUTES: u32 = 0x100; // enough to make an empty directory lead elsewhere
const DELETE: u32 = 0x1_0000;
const WRITE_DAC: u32 = 0x4_0000;
const WRITE_OWNER: u32 = 0x8_0000;
const GENERIC_ALL: u32 = 0x1000_0000;
const GENERIC_WRITE: u32 = 0x4000_0000;

/// To take a file or directory away, and with it the place that it has, or to get the right to.
const TAKE: u32 = DELETE | WRITE_DAC | WRITE_OWNER | GENERIC_ALL;

/// To change a file, or what is in a directory.
pub(super) const CHANGE: u32 =
    TAKE | WRITE_DATA | APPEND_DATA | WRITE_EA | WRITE_ATTRIBUTES | DELETE_CHILD | GENERIC_WRITE;

/// To rename what is in a directory. Others may add to it, as they may to `C:\`.
pub(super) const RENAME_IN: u32 = TAKE | DELETE_CHILD;

/// To read a file, or what is in a directory.
#[cfg(all(test, windows))]
pub(super) const READ: u32 = 0x1 | GENERIC_ALL | 0x8000_0000;

/// Who may do everything anyway: the system, administrators, the account Administrator, the installer of Windows, and the
/// owner, who is looked at apart.
const TRUSTED: [&str; 9] = [
    "SY",
    "S-1-5-18",
    "BA",
    "S-1-5-32-544",
    "LA",
    "OW",
    "S-1-3-4",
    "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464",
    "CO", // stands in what is inherited alone
];

/// Whether others than administrators and `own` may do any of that, or own it. What is not understood counts as that they do.
pub(super) fn others_may(descriptor: &str, own: &str, what: u32) -> bool {
    let trusted = |who: &str| who == own || TRUSTED.contains(&who);
    let Some(parts) = parts(descriptor) else { return true };
    if !parts.owner.is_some_and(trusted) {
        return true;
    }
    let Some(list) = parts.list else { return true };
    let Some(entries) = entries(list) else { return true };
    entries.iter().any(|entry| {
        let [kind, flags, rights, _, _, who, ..] = entry.as_slice() else { return true };
        let denies = matches!(*kind, "D" | "OD" | "XD");
        // It is for what is made in a directory, which has a list of its own.
        let inherit_only = pairs(flags).any(|flag| flag == "IO");
        !denies && !inherit_only && !trusted(who) && mask(rights).is_none_or(|mask| mask & what != 0)
    })
}

/// The owner of it.
pub(super) fn owner(descriptor: &str) -> Option<&str> {
    parts(descriptor)?.owner
}

struct Parts<'a> {
    owner: Option<&'a str>,
    /// The list of who may; none when there is none, and everybody may do everything.
    list: Option<&'a str>,
}

/// `O:owner G:group D:flags(entries) S:...`, without spaces.
fn parts(descriptor: &str) -> Option<Parts<'_>> {
    let mut parts = Parts { owner: None, list: None };
    let mut rest = descriptor;
    while let Some((key, after)) = rest.split_at_checked(2).filter(|(_, after)| !after.is_empty() || rest.len() == 2) {
        // A value ends where the next key begins, which is a letter and a colon outside of parentheses.
        let end = next_key(after);
        let (value, next) = after.split_at_checked(end)?;
        match key {
            "O:" => parts.owner = Some(value),
            "D:" => parts.list = Some(value),
            "G:" | "S:" => {}
            _ => return None,
        }
        rest = next;
    }
    rest.is_empty().then_some(parts)
}

fn next_key(text: &str) -> usize {
    let mut depth = 0_usize;
    let bytes = text.as_bytes();
    for (place, byte) in bytes.iter().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b':' if depth == 0 => return place.saturating_sub(1),
            _ => {}
        }
    }
    bytes.len()
}

/// The entries of a list, each by its fields.
fn entries(list: &str) -> Option<Vec<Vec<&str>>> {
    let (flags, mut rest) = list.split_at_checked(list.find('(').unwrap_or(list.len()))?;
    if flags.contains("NO_ACCESS_CONTROL") {
        return None;
    }
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (entry, after) = rest.strip_prefix('(')?.split_once(')')?;
        entries.push(entry.split(';').collect());
        rest = after;
    }
    Some(entries)
}

fn pairs(text: &str) -> impl Iterator<Item = &str> {
    (0..text.len()).step_by(2).map(|at| text.get(at..at + 2).unwrap_or("?"))
}

/// The mask of rights that are written as a number or as pairs of letters.
fn mask(rights: &str) -> Option<u32> {
    if let Some(digits) = rights.strip_prefix("0x") {
        return u32::from_str_radix(digits, 16).ok();
    }
    if rights.starts_with(|c: char| c.is_ascii_digit()) {
        return rights.parse().ok();
    }
    pairs(rights).try_fold(0, |mask, right| {
        let right = match right {
            "GA" => GENERIC_ALL,
            "GW" => GENERIC_WRITE,
            "GR" => 0x8000_0000,
            "GX" => 0x2000_0000,
            "RC" => 0x2_0000,
            "SD" => DELETE,
            "WD" => WRITE_DAC,
            "WO" => WRITE_OWNER,
            "CC" => 0x1,
            "DC" => WRITE_DATA,
            "LC" => APPEND_DATA,
            "SW" => 0x8,
            "RP" => WRITE_EA,
            "WP" => 0x20,
            "DT" => DELETE_CHILD,
            "LO" => 0x80,
            "CR" => WRITE_ATTRIBUTES,
            "FA" => 0x1f_01ff,
            "FR" => 0x12_0089,
            "FW" => 0x12_0116,
            "FX" => 0x12_00a0,
            _ => return None,
        };
        Some(mask | right)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "S-1-5-21-1-2-3-1001";
    /// As Windows sets them up.
    const PROGRAM_DATA: &str = "O:SYG:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICIIO;GA;;;CO)(A;OICI;0x1200a9;;;BU)\
                                (A;CI;DCLCRPCR;;;BU)";
    const DRIVE: &str = "O:S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464G:SYD:PAI(A;OICI;FA;;;BA)\
                         (A;OICI;FA;;;SY)(A;OICI;0x1200a9;;;BU)(A;OICIIO;SDGXGWGR;;;AU)(A;;LC;;;AU)";

    #[test]
    fn what_is_administrators_alone() {
        for private in [
            "O:BAG:SYD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)".to_owned(),
            format!("O:{OWN}G:{OWN}D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;{OWN})"),
            "O:SYG:SYD:(D;;FA;;;WD)(A;;FA;;;BA)(A;;FRFX;;;WD)S:AI(AU;SA;FA;;;WD)".to_owned(),
            "O:BAG:BAD:".to_owned(), // nobody may anything
        ] {
            assert!(!others_may(&private, OWN, CHANGE), "{private}");
        }
        assert_eq!(owner("O:BAG:SYD:P(A;OICI;FA;;;SY)"), Some("BA"));
    }

    #[test]
    fn what_others_may_change() {
        for open in [
            "O:BAG:SYD:(A;;FW;;;BU)",
            "O:BAG:SYD:(A;;0x2;;;WD)",
            "O:BAG:SYD:(A;;1179926;;;WD)",
            "O:BAG:SYD:(A;;GW;;;AU)",
            "O:BAG:SYD:(A;;WD;;;AU)",
            "O:BAG:SYD:(A;;CR;;;AU)",
            "O:BAG:SYD:(XA;;FA;;;WD;(Member_of{BA}))",
            "O:BAG:SYD:(A;;??;;;BU)",
            "O:BAG:SYD:(A;;FA)",
            "O:BAG:SYD:(A;;FR;;;BU",
            "O:BAG:SYD:NO_ACCESS_CONTROL",
            "O:BAG:SY",
            "G:SYD:(A;;FA;;;BA)",
            "O:S-1-5-21-1-2-3-1002G:SYD:(A;;FA;;;BA)",
            "nonsense",
            "",
            "é",
        ] {
            assert!(others_may(open, OWN, CHANGE), "{open}");
        }
    }

    #[test]
    fn folders_of_the_system_are_not_for_others_to_rename_in() {
        assert!(others_may(PROGRAM_DATA, OWN, CHANGE) && others_may(DRIVE, OWN, CHANGE));
        assert!(!others_may(PROGRAM_DATA, OWN, RENAME_IN) && !others_may(DRIVE, OWN, RENAME_IN));
        assert!(others_may("O:SYG:SYD:(A;;DT;;;BU)", OWN, RENAME_IN));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_odd(text in "([OGDS]:)?[A-Z(;)x0-9:é-]{0,40}") {
            let _ = others_may(&text, OWN, CHANGE);
        }
    }
}
