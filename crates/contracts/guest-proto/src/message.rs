//! The messages, as protobuf. Field numbers are for ever: a snapshot may hold an older agent.
//!
//! Times are nanoseconds since the Unix epoch, sizes bytes, paths bytes as the guest has them (Linux paths need not be
//! UTF-8).

/// What the host asks for; the first and only message that it sends on a call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// The operation.
    #[prost(
        oneof = "Op",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18"
    )]
    pub op: Option<Op>,
}

/// The operations. Until a wake has succeeded an agent refuses all but `Ping`, `Wake` and `Shutdown`, and until a
/// claim has succeeded all that touch the sandbox's files or processes.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Op {
    /// Are you there? Answers `Reply::Pong`.
    #[prost(message, tag = "1")]
    Ping(Empty),
    /// Makes a clone unique (first stage, at entry to the pool).
    #[prost(message, tag = "2")]
    Wake(Wake),
    /// Gives a clone its session disk, environment and user (second stage).
    #[prost(message, tag = "3")]
    Claim(Claim),
    /// Runs a process. Data: stdin in; stdout and stderr out.
    #[prost(message, tag = "4")]
    Exec(Exec),
    /// Sends a signal to the process group of a running exec.
    #[prost(message, tag = "5")]
    Signal(Signal),
    /// Reads a file. Data out.
    #[prost(message, tag = "6")]
    FileRead(FileRead),
    /// Writes a file. Data in, then Eof.
    #[prost(message, tag = "7")]
    FileWrite(FileWrite),
    /// Stat of a path.
    #[prost(message, tag = "8")]
    FileStat(FilePath),
    /// The entries of a directory.
    #[prost(message, tag = "9")]
    FileList(FilePath),
    /// Makes a directory.
    #[prost(message, tag = "10")]
    FileMkdir(FileMkdir),
    /// Renames a path.
    #[prost(message, tag = "11")]
    FileRename(FileRename),
    /// Removes a path.
    #[prost(message, tag = "12")]
    FileRemove(FileRemove),
    /// Unpacks a tar stream below a directory. Data in, then Eof.
    #[prost(message, tag = "13")]
    TarIn(FilePath),
    /// Packs a file or directory as a tar stream. Data out.
    #[prost(message, tag = "14")]
    TarOut(FilePath),
    /// Runs one of the six tools.
    #[prost(message, tag = "15")]
    Tool(Tool),
    /// Makes what has been written to the session disk durable there (`syncfs`).
    #[prost(message, tag = "16")]
    Sync(Empty),
    /// Ends every process, syncs, and powers the VM off.
    #[prost(message, tag = "17")]
    Shutdown(Empty),
    /// Before the snapshot: run the paths that calls will need once (template warm-up), then drop the caches of this.
    #[prost(message, tag = "18")]
    Warm(Empty),
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Empty {}

/// First stage of waking. After it two clones of one snapshot share no random bytes, id or clock. A claimed sandbox that
/// was suspended and goes on gets one too, without names: it keeps its own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Wake {
    /// Fresh from the host's generator; at least 32 bytes. Credited and reseeded from.
    #[prost(bytes = "vec", tag = "1")]
    pub entropy: Vec<u8>,
    /// The host's realtime clock.
    #[prost(uint64, tag = "2")]
    pub realtime_ns: u64,
    /// The host name of this sandbox.
    #[prost(string, tag = "3")]
    pub hostname: String,
    /// 32 lower-case hexadecimal digits.
    #[prost(string, tag = "4")]
    pub machine_id: String,
}

/// Second stage of waking: the session's own things.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Claim {
    /// The host's realtime clock, again: a clone may have waited in the pool.
    #[prost(uint64, tag = "1")]
    pub realtime_ns: u64,
    /// Size of the session disk. The agent waits until the block device has it.
    #[prost(uint64, tag = "2")]
    pub disk_bytes: u64,
    /// Environment of processes and tools, over the template's.
    #[prost(message, repeated, tag = "3")]
    pub env: Vec<EnvVar>,
    /// Who runs processes and tools: a name or a number of the guest's passwd file, `user` or `user:group`. Empty: the
    /// template's.
    #[prost(string, tag = "4")]
    pub user: String,
    /// Working directory; empty: `/workspace`. Made if it is missing.
    #[prost(string, tag = "5")]
    pub cwd: String,
    /// What sandbox processes are called in `/etc/hostname` and `uname`; empty: as woken.
    #[prost(string, tag = "6")]
    pub hostname: String,
}

/// One environment variable.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EnvVar {
    /// Name, without `=`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A process to run, in the sandbox's namespaces, in a process group of its own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Exec {
    /// Program and arguments. With `shell` set: exactly one, a line for `/bin/sh -c`.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub argv: Vec<Vec<u8>>,
    /// Whether `argv` is a shell line.
    #[prost(bool, tag = "2")]
    pub shell: bool,
    /// Working directory; empty: that of the claim.
    #[prost(bytes = "vec", tag = "3")]
    pub cwd: Vec<u8>,
    /// Variables over those of the claim.
    #[prost(message, repeated, tag = "4")]
    pub env: Vec<EnvVar>,
    /// As in [`Claim::user`]; empty: that of the claim.
    #[prost(string, tag = "5")]
    pub user: String,
    /// After so long the group is killed; 0: never.
    #[prost(uint64, tag = "6")]
    pub timeout_ms: u64,
    /// Whether the host sends stdin; otherwise it is `/dev/null`.
    #[prost(bool, tag = "7")]
    pub stdin: bool,
}

/// A signal for the process group of an exec.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Signal {
    /// The call that runs the exec.
    #[prost(uint32, tag = "1")]
    pub call: u32,
    /// Linux signal number.
    #[prost(int32, tag = "2")]
    pub signal: i32,
}

/// A file to read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileRead {
    /// Absolute, or relative to the claim's working directory.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// First byte.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// At most so many; 0: to the end.
    #[prost(uint64, tag = "3")]
    pub length: u64,
}

/// A file to write: a temporary file beside it, renamed when the last byte is there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileWrite {
    /// Where.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Permission bits; 0: those of the file that it replaces, else 0644.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Whether missing parents are made.
    #[prost(bool, tag = "3")]
    pub parents: bool,
}

/// A path.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FilePath {
    /// Absolute, or relative to the claim's working directory.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
}

/// A directory to make.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileMkdir {
    /// Where.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Whether missing parents are made, and an existing directory is fine.
    #[prost(bool, tag = "2")]
    pub parents: bool,
}

/// A path to rename.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileRename {
    /// From.
    #[prost(bytes = "vec", tag = "1")]
    pub from: Vec<u8>,
    /// To; replaced if it exists.
    #[prost(bytes = "vec", tag = "2")]
    pub to: Vec<u8>,
}

/// A path to remove.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileRemove {
    /// What.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Whether a directory goes with all that is in it.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
}

/// A tool call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tool {
    /// `bash`, `read`, `write`, `edit`, `glob` or `grep`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The input, as JSON. The host has checked it against the schema; the guest checks again.
    #[prost(bytes = "vec", tag = "2")]
    pub input: Vec<u8>,
    /// The shell's state is loaded from and saved to the session disk around a `bash` call, and there is no live shell
    /// (isolation mode `call`).
    #[prost(bool, tag = "3")]
    pub saved_shell: bool,
    /// After the call: end every process that is left, then `syncfs` the session disk (isolation mode `call`).
    #[prost(bool, tag = "4")]
    pub finish: bool,
    /// After so long the call is ended with its partial output; 0: the tool's own limit.
    #[prost(uint64, tag = "5")]
    pub timeout_ms: u64,
    /// After the call: `syncfs` the session disk. `finish` asks for it, too.
    #[prost(bool, tag = "6")]
    pub sync: bool,
}

/// How a call ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// The outcome.
    #[prost(oneof = "Outcome", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub outcome: Option<Outcome>,
}

/// The outcomes.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Outcome {
    /// The call failed. (An exec whose command exits with 1 has not failed.)
    #[prost(message, tag = "1")]
    Error(Error),
    /// It is done and there is nothing to tell.
    #[prost(message, tag = "2")]
    Done(Empty),
    /// Answer to `Ping`.
    #[prost(message, tag = "3")]
    Pong(Pong),
    /// The process of an exec is gone.
    #[prost(message, tag = "4")]
    Exited(Exited),
    /// Stat of a path.
    #[prost(message, tag = "5")]
    Stat(FileStat),
    /// The entries of a directory.
    #[prost(message, tag = "6")]
    List(FileList),
    /// What a tool answered.
    #[prost(message, tag = "7")]
    Tool(ToolResult),
    /// The clone has its disk.
    #[prost(message, tag = "8")]
    Claimed(Claimed),
}

/// Why a call failed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Error {
    /// A class that the host can act on.
    #[prost(enumeration = "ErrorKind", tag = "1")]
    pub kind: i32,
    /// A sentence for people. Guest data: bounded, and not for logs.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Classes of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ErrorKind {
    /// None of the others.
    Internal = 0,
    /// The agent is not in the state for this (not awake, not claimed, claimed already).
    State = 1,
    /// The request is malformed or asks for what cannot be.
    Invalid = 2,
    /// No such file, directory, user, program or call.
    NotFound = 3,
    /// Not allowed.
    Permission = 4,
    /// The disk is full, or a quota.
    NoSpace = 5,
    /// The session disk cannot be mounted, or fails.
    Disk = 6,
    /// It took too long.
    Timeout = 7,
    /// The host cancelled it.
    Cancelled = 8,
    /// It exists already.
    Exists = 9,
    /// The agent has too much to do.
    Busy = 10,
}

/// The agent's word on itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pong {
    /// `omnirun-guest` version.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The kernel's boot id now.
    #[prost(string, tag = "2")]
    pub boot_id: String,
}

/// The end of a process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Exited {
    /// Exit code, if it exited.
    #[prost(int32, optional, tag = "1")]
    pub code: Option<i32>,
    /// Signal number, if a signal ended it.
    #[prost(int32, optional, tag = "2")]
    pub signal: Option<i32>,
    /// Whether the timeout did.
    #[prost(bool, tag = "3")]
    pub timed_out: bool,
    /// CPU time in user code.
    #[prost(uint64, tag = "4")]
    pub user_us: u64,
    /// CPU time in the kernel.
    #[prost(uint64, tag = "5")]
    pub system_us: u64,
    /// Largest resident set, bytes.
    #[prost(uint64, tag = "6")]
    pub max_rss: u64,
}

/// What `stat` says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileStat {
    /// File type and permission bits, as `st_mode`.
    #[prost(uint32, tag = "1")]
    pub mode: u32,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Modification time, ns since the epoch.
    #[prost(int64, tag = "3")]
    pub mtime_ns: i64,
    /// Owner.
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "5")]
    pub gid: u32,
    /// Where a symbolic link points.
    #[prost(bytes = "vec", tag = "6")]
    pub target: Vec<u8>,
    /// The entry's name, in a list.
    #[prost(bytes = "vec", tag = "7")]
    pub name: Vec<u8>,
}

/// The entries of a directory, by name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileList {
    /// At most 10,000.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<FileStat>,
    /// Whether there were more.
    #[prost(bool, tag = "2")]
    pub truncated: bool,
}

/// What a tool answered: what the model is to see, and what the host must know.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToolResult {
    /// Whether the model is to see an error.
    #[prost(bool, tag = "1")]
    pub is_error: bool,
    /// The content blocks.
    #[prost(message, repeated, tag = "2")]
    pub content: Vec<Block>,
    /// Whether `syncfs` succeeded (only with `finish` or `sync`): the call's files are on the session disk.
    #[prost(bool, tag = "3")]
    pub synced: bool,
    /// Processes that were still there at the end of the call and have been ended (only with `finish`).
    #[prost(uint32, tag = "4")]
    pub ended_processes: u32,
    /// Exit code of the command, for `bash`.
    #[prost(int32, optional, tag = "5")]
    pub exit_code: Option<i32>,
    /// Whether the tool was ended by its time limit.
    #[prost(bool, tag = "6")]
    pub timed_out: bool,
    /// Guest time that the tool took.
    #[prost(uint64, tag = "7")]
    pub elapsed_us: u64,
}

/// A content block.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Block {
    /// Its kind.
    #[prost(oneof = "BlockKind", tags = "1, 2, 3")]
    pub kind: Option<BlockKind>,
}

/// Kinds of content block.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum BlockKind {
    /// Text; UTF-8 by construction.
    #[prost(string, tag = "1")]
    Text(String),
    /// An image.
    #[prost(message, tag = "2")]
    Image(Media),
    /// A document.
    #[prost(message, tag = "3")]
    Document(Media),
}

/// Bytes with a media type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Media {
    /// For example `image/png`.
    #[prost(string, tag = "1")]
    pub media_type: String,
    /// Raw bytes; the host encodes them as base64.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

/// What the claim found.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Claimed {
    /// Whether the disk had never been claimed before.
    #[prost(bool, tag = "1")]
    pub fresh: bool,
}
