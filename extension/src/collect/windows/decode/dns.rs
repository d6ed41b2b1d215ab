//! Names that were looked up: Microsoft-Windows-DNS-Client
//! (<https://github.com/jdu2600/Windows10EtwEvents/blob/master/manifest/Microsoft-Windows-DNS-Client.tsv>).
//!
//! Event 3008 is written in the process that asks, when its question is answered, from the cache or not; those of the questions to
//! servers (3018, 3020) are the cache's own. The results are text, `type:  5 name;192.0.2.1;::ffff:192.0.2.1;`.

use super::{Header, Record};
use crate::collect::windows::cursor::{Cursor, Short};

pub(super) fn decode(header: &Header, mut cursor: Cursor<'_>) -> Result<Option<Record>, Short> {
    match (header.id, header.version) {
        (3008, 0) => {
            let host = cursor.wide_text()?;
            cursor.skip(4 + 8)?; // QueryType, QueryOptions
            let status = cursor.u32()?;
            let results = cursor.wide_text()?;
            let addresses: Vec<_> = results.split(';').filter_map(|result| result.trim().parse().ok()).collect();
            // Without an address nothing is named.
            let answered = status == 0 && !addresses.is_empty();
            Ok(Some(if answered { Record::Lookup { host, addresses } } else { Record::Nothing }))
        }
        (3008, _) => Ok(None),
        _ => Ok(Some(Record::Nothing)),
    }
}
