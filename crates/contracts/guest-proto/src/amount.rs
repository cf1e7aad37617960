//! How much a reply decodes to. An empty entry of a list is two bytes on the wire and a hundred in memory, so a reply of
//! the permitted length could take the host a gigabyte; its entries are counted before any is decoded.

use crate::limits::MAX_REPEATED;
use prost::{
    DecodeError,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

/// A reply's fields that hold a list, and the list's field in them.
const LISTS: [(u32, u32); 2] = [(6, 1), (7, 2)];

/// Whether the reply has at most [`MAX_REPEATED`] entries in all its lists, and can be read so far.
pub(crate) fn is_bounded(reply: &[u8]) -> bool {
    count(reply).is_ok_and(|count| count <= MAX_REPEATED)
}

fn count(reply: &[u8]) -> Result<usize, DecodeError> {
    let mut entries = 0;
    fields(reply, |outer, message| {
        if let Some((_, list)) = LISTS.iter().find(|(field, _)| *field == outer) {
            fields(message, |inner, _| {
                entries += usize::from(inner == *list);
                Ok(())
            })?;
        }
        Ok(())
    })?;
    Ok(entries)
}

/// Goes through a message's fields that have a length.
fn fields(
    mut message: &[u8],
    mut each: impl FnMut(u32, &[u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    while !message.is_empty() {
        let (tag, kind) = decode_key(&mut message)?;
        if kind == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut message)?).unwrap_or(usize::MAX);
            let Some((field, rest)) = message.split_at_checked(length) else {
                // Cut off: the decoder says so, and stops there, too.
                return Ok(());
            };
            each(tag, field)?;
            message = rest;
        } else {
            skip_field(kind, tag, &mut message, DecodeContext::default())?;
        }
    }
    Ok(())
}
