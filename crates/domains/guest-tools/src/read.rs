//! `read`: text, a range of lines of a file of any size, images and PDFs.

use crate::{
    Root, answer,
    error::ToolError,
    limits::{MAX_FILE_BYTES, MAX_IMAGE_BYTES, MAX_PDF_BYTES},
};
use omnirun_guest_proto::message::ToolResult;
use omnirun_tool_schema::ReadInput;
use std::{
    fs::File,
    io::{Read, Take},
    path::Path,
    time::Instant,
};

const TOOL: &str = "read";

pub(crate) fn run(root: &Root, input: &ReadInput, deadline: Instant) -> Result<ToolResult, ToolError> {
    let given = input.file_path.as_str();
    let path = root.resolve(TOOL, given)?;
    let opened = root
        .regular(&path)
        .map_err(|error| ToolError::system(TOOL, given, error))?;
    let (fd, stat) = opened.ok_or_else(|| ToolError::path(TOOL, given, "not a regular file"))?;
    let mut file = File::from(fd);
    if let Some(media) = Media::by_extension(&path).or_else(|| Media::by_extension(Path::new(given)))
        && let Some(result) = media.read(&mut file, stat.st_size.unsigned_abs(), input)?
    {
        return Ok(result);
    }
    let bytes = match input.view_range {
        Some((first, last)) => range(file, given, first, last, deadline)?,
        None => whole(file, given, stat.st_size.unsigned_abs())?,
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(answer::text_or_no_output(text)),
        Err(_) => Err(ToolError::path(
            TOOL,
            given,
            "not UTF-8 text; of binary files only images (.png, .jpg, .jpeg, .gif, .webp) and .pdf are supported",
        )),
    }
}

fn whole(file: File, given: &str, size: u64) -> Result<Vec<u8>, ToolError> {
    if size > MAX_FILE_BYTES {
        return Err(too_large(given, size));
    }
    // The size may be a lie (or grow meanwhile), the limit not.
    let bytes = read_limited(file.take(MAX_FILE_BYTES + 1), given)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(given, bytes.len() as u64));
    }
    Ok(bytes)
}

fn too_large(given: &str, size: u64) -> ToolError {
    let reason = format!(
        "file is {size} bytes, more than the limit of {MAX_FILE_BYTES}; use view_range [start_line, end_line] to read \
         a part of it"
    );
    ToolError::path(TOOL, given, reason)
}

fn read_limited(mut reader: Take<File>, given: &str) -> Result<Vec<u8>, ToolError> {
    let mut bytes = Vec::new();
    reader
        .read_to_end(&mut bytes)
        .map_err(|error| failed(given, &error))?;
    Ok(bytes)
}

fn failed(given: &str, error: &std::io::Error) -> ToolError {
    let errno = rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO);
    ToolError::system(TOOL, given, errno)
}

/// Lines `first` to `last` (from 1; a last line of 0 or less means to the end), without the last one's newline: what
/// splitting at newlines and joining again gives. Holds nothing but the lines that are asked for.
fn range(
    mut file: File,
    given: &str,
    first: i64,
    last: i64,
    deadline: Instant,
) -> Result<Vec<u8>, ToolError> {
    let first = first.max(1).unsigned_abs();
    let last = if last <= 0 { u64::MAX } else { last.unsigned_abs() };
    let mut selected = Vec::new();
    if first > last {
        return Ok(selected);
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut line = 1;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(selected),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(given, &error)),
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let newline = memchr::memchr(b'\n', rest);
            let (head, tail) = rest.split_at(newline.map_or(rest.len(), |at| at + 1));
            if line >= first {
                let ends = newline.is_some() && line == last;
                selected.extend_from_slice(if ends { &head[..head.len() - 1] } else { head });
                if selected.len() as u64 > MAX_FILE_BYTES {
                    return Err(range_too_large(given, line == first));
                }
                if ends {
                    return Ok(selected);
                }
            }
            line += u64::from(newline.is_some());
            rest = tail;
        }
        if Instant::now() > deadline {
            return Err(ToolError::path(
                TOOL,
                given,
                format!("took too long; line {line} was reached"),
            ));
        }
    }
}

fn range_too_large(given: &str, one_line: bool) -> ToolError {
    let reason = if one_line {
        format!(
            "the first line of view_range alone is more than the limit of {MAX_FILE_BYTES} bytes; read a part of it \
             with bash (cut -c, head -c)"
        )
    } else {
        format!(
            "the lines of view_range are more than the limit of {MAX_FILE_BYTES} bytes; ask for fewer lines"
        )
    };
    ToolError::path(TOOL, given, reason)
}

/// What is returned as a block of its own. The extension says that it may be one and the content which: a block with
/// the wrong media type would be refused by the API and take the whole turn with it. A file that only has the
/// extension is read as text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Media {
    Image,
    Pdf,
}

impl Media {
    fn by_extension(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "png" | "jpg" | "jpeg" | "gif" | "webp" => Some(Self::Image),
            "pdf" => Some(Self::Pdf),
            _ => None,
        }
    }

    fn by_content(self, head: &[u8]) -> Option<&'static str> {
        match (self, head) {
            (Self::Image, [0x89, b'P', b'N', b'G', ..]) => Some("image/png"),
            (Self::Image, [0xff, 0xd8, 0xff, ..]) => Some("image/jpeg"),
            (Self::Image, [b'G', b'I', b'F', b'8', ..]) => Some("image/gif"),
            (Self::Image, [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..]) => {
                Some("image/webp")
            }
            (Self::Pdf, head) => memchr::memmem::find(head, b"%PDF-").map(|_| "application/pdf"),
            _ => None,
        }
    }

    fn read(self, file: &mut File, size: u64, input: &ReadInput) -> Result<Option<ToolResult>, ToolError> {
        use std::os::unix::fs::FileExt;
        let given = input.file_path.as_str();
        let mut head = [0; 1024];
        let count = file
            .read_at(&mut head, 0)
            .map_err(|error| failed(given, &error))?;
        let Some(media_type) = self.by_content(&head[..count]) else {
            return Ok(None);
        };
        let (what, article, limit) = match self {
            Self::Image => ("image", "an image", MAX_IMAGE_BYTES),
            Self::Pdf => ("PDF", "a PDF", MAX_PDF_BYTES),
        };
        if input.view_range.is_some() {
            let reason = format!("view_range does not apply to a file with {article} in it; leave it out");
            return Err(ToolError::path(TOOL, given, reason));
        }
        let too_large = |size: u64| {
            let reason =
                format!("{what} is {size} bytes, more than the limit of {limit}; make it smaller with bash");
            Err(ToolError::path(TOOL, given, reason))
        };
        if size > limit {
            return too_large(size);
        }
        let data = read_limited(
            file.try_clone()
                .map_err(|error| failed(given, &error))?
                .take(limit + 1),
            given,
        )?;
        if data.len() as u64 > limit {
            return too_large(data.len() as u64);
        }
        Ok(Some(match self {
            Self::Image => answer::image(media_type, data),
            Self::Pdf => answer::document(media_type, data),
        }))
    }
}
