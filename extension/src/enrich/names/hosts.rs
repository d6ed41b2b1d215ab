//! The file of names of a machine, `hosts(5)`.

use std::net::IpAddr;

/// Whether the file says that the host has that address.
#[must_use]
pub fn says(file: &str, host: &str, address: IpAddr) -> bool {
    file.lines().any(|line| {
        let mut words = line.split('#').next().unwrap_or("").split_ascii_whitespace();
        let of_address = words.next().and_then(|word| word.parse().ok()).is_some_and(|own: IpAddr| own == address);
        of_address && words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(host))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_names_its_address_only() {
        let file = "127.0.0.1 localhost\n# 192.0.2.1 off\n192.0.2.1\tAPI.example. other # note\n2001:db8::1 six\n";
        let is = |host, address: &str| says(file, host, address.parse().unwrap());
        assert!(is("api.example", "192.0.2.1") && is("other", "192.0.2.1") && is("six", "2001:db8::1"));
        assert!(!is("note", "192.0.2.1") && !is("off", "192.0.2.1") && !is("localhost", "192.0.2.1"));
    }

    proptest! {
        #[test]
        fn any_text_does(file in ".{0,300}", host in ".{0,20}") {
            let _ = says(&file, &host, IpAddr::from([192, 0, 2, 1]));
        }
    }
}
