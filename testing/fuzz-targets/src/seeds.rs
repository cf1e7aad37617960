//! Well-formed samples for each target, written by the code whose peer is under test.

mod egress;
mod kernel;

use crate::{
    tar::{SHORT, entry},
    wire::NONCE,
};
use omnirun_guest_proto::{
    Message,
    frame::{self, Channel, Kind},
    host::HostEnd,
    message::{
        Block, BlockKind, Claim, Claimed, Empty, EnvVar, Error, Exec, Exited, FileList, FileStat, Media, Op,
        Outcome, Pong, Reply, Request, Tool, ToolResult, Wake,
    },
    preface::{self, MAGIC},
};

/// The samples of a target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "bzimage" => kernel::bzimages(),
        "client_hello" => egress::client_hellos(),
        "console" => vec![chosen(3, b"[    0.000000] Linux\r\n\x1b[2Jsh: \xc3\x28\x07 ok\n")],
        "dns_query" => egress::dns_queries(),
        "file_tools" => FILE_CALLS.iter().map(|text| text.as_bytes().to_vec()).collect(),
        "frames" => vec![chosen(3, &guest_side(&[0, 1, 2])), chosen(0, &host_side())],
        "guest_client" => vec![
            chosen(3, &guest_side(&[2, 3, 0, 5, 6, 7, 1, 4, 0, 8, 3])),
            chosen(128, &guest_side(&[0, 0, 0])),
            chosen(15, &preface::answer(NONCE, preface::VERSION)),
        ],
        "guest_end" => vec![
            chosen(200, &host_side()),
            chosen(1, &[host_side(), host_side()].concat()),
        ],
        "host_end" => vec![
            chosen(5, &guest_side(&[3, 6, 0])),
            chosen(200, &guest_side(&[0, 1, 2])),
        ],
        "http_head" => egress::http_heads(),
        "images" => vec![
            include_bytes!("../../../templates/default.toml").to_vec(),
            include_bytes!("../../../crates/mechanisms/images/golden/manifest-3.json").to_vec(),
            b"user agent\nworkdir /work dir\nkeep_capabilities 1\nfuture x\nenv LANG=C.UTF-8\nenv A=b=c d\n"
                .to_vec(),
        ],
        "messages" => outcomes()
            .into_iter()
            .map(|o| Reply { outcome: Some(o) }.encode_to_vec())
            .chain(ops().into_iter().map(|o| Request { op: Some(o) }.encode_to_vec()))
            .collect(),
        "output" => OUTPUT.iter().map(|text| chosen(3, text)).collect(),
        "passwd" => vec![PASSWD.as_bytes().to_vec(), b"1000:7\0\0".to_vec()],
        "preface" => vec![
            chosen(
                200,
                &[&b"noise"[..], &preface::answer([1; 16], 1), &MAGIC[..7], b"more"].concat(),
            ),
            chosen(
                3,
                &[&preface::answer(NONCE, preface::VERSION)[..], b"rest"].concat(),
            ),
            chosen(
                9,
                &[&preface::offer([2; 16])[..20], &preface::offer(NONCE)].concat(),
            ),
        ],
        "qmp" => QMP.iter().map(|text| chosen(7, text.as_bytes())).collect(),
        "shell_state" => vec![
            chosen(0, PRINT.as_bytes()),
            chosen(1, b"omnirun-shell 1\ncd /\n\0set -e\n"),
        ],
        "sse" => vec![chosen(5, SSE.as_bytes())],
        "tool_schema" => INPUTS
            .iter()
            .map(|(tool, text)| chosen(*tool, text.as_bytes()))
            .collect(),
        "tool_result" => outcomes()
            .into_iter()
            .filter_map(|outcome| match outcome {
                Outcome::Tool(result) => Some(chosen(1, &result.encode_to_vec())),
                _ => None,
            })
            .chain([chosen(0, &ToolResult::default().encode_to_vec())])
            .collect(),
        "unpack" => vec![tar_file(), tar_long(), tar_short()],
        "work_proto" => WORK.iter().map(|text| text.as_bytes().to_vec()).collect(),
        _ => Vec::new(),
    }
}

fn chosen(first: u8, rest: &[u8]) -> Vec<u8> {
    [&[first], rest].concat()
}

fn ops() -> Vec<Op> {
    let env = || {
        vec![EnvVar {
            name: "LANG".into(),
            value: "C.UTF-8".into(),
        }]
    };
    vec![
        Op::Ping(Empty {}),
        Op::Wake(Wake {
            entropy: vec![9; 32],
            realtime_ns: 1_795_000_000_000_000_000,
            hostname: "sandbox".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
        }),
        Op::Claim(Claim {
            disk_bytes: 8 << 30,
            env: env(),
            user: "agent".into(),
            ..Claim::default()
        }),
        Op::Exec(Exec {
            argv: vec![b"cat".to_vec(), MAGIC.to_vec()],
            env: env(),
            stdin: true,
            ..Exec::default()
        }),
        Op::Tool(Tool {
            name: "bash".into(),
            input: br#"{"command":"true"}"#.to_vec(),
            saved_shell: true,
            finish: true,
            timeout_ms: 1000,
            sync: true,
        }),
    ]
}

fn outcomes() -> Vec<Outcome> {
    let stat = || FileStat {
        mode: 0o120_777,
        size: 3,
        mtime_ns: -1,
        target: b"t".to_vec(),
        name: b"n".to_vec(),
        ..FileStat::default()
    };
    let media = || Media {
        media_type: "image/png".into(),
        data: vec![0x89, b'P'],
    };
    let blocks = [
        BlockKind::Text("out".into()),
        BlockKind::Image(media()),
        BlockKind::Document(media()),
    ];
    vec![
        Outcome::Done(Empty {}),
        Outcome::Error(Error {
            kind: 3,
            message: "no such file".into(),
        }),
        Outcome::Pong(Pong {
            version: "0.1.0".into(),
            boot_id: "a-b".into(),
        }),
        Outcome::Exited(Exited {
            code: Some(1),
            user_us: 7,
            max_rss: 1 << 20,
            ..Exited::default()
        }),
        Outcome::Claimed(Claimed { fresh: true }),
        Outcome::Stat(stat()),
        Outcome::List(FileList {
            entries: vec![stat(), stat()],
            truncated: true,
        }),
        Outcome::Tool(ToolResult {
            content: blocks.into_iter().map(|k| Block { kind: Some(k) }).collect(),
            synced: true,
            exit_code: Some(-1),
            ..ToolResult::default()
        }),
        Outcome::Error(Error {
            kind: 99,
            message: String::new(),
        }),
    ]
}

/// What a guest sends behind the preface: a reply to each call, the first ones with output, a credit and an end.
fn guest_side(replies: &[usize]) -> Vec<u8> {
    let (mut wire, outcomes) = (Vec::new(), outcomes());
    for (call, reply) in (1..).zip(replies) {
        if call <= 3 {
            frame::put_data(&mut wire, call, Channel::Output, b"out");
            frame::put_data(&mut wire, call, Channel::Error, &MAGIC);
            frame::put_one(&mut wire, call, Kind::Credit, Channel::Input, &1u32.to_le_bytes());
            frame::put_one(&mut wire, call, Kind::Eof, Channel::Output, &[]);
        }
        let outcome = outcomes.get(*reply).cloned();
        let bytes = Reply { outcome }.encode_to_vec();
        if call == 2 {
            let (first, rest) = bytes.split_at(bytes.len() / 2);
            frame::put_one(&mut wire, call, Kind::Part, Channel::Input, first);
            frame::put_message(&mut wire, call, rest);
        } else {
            frame::put_message(&mut wire, call, &bytes);
        }
    }
    wire
}

/// What a host sends, the preface included.
fn host_side() -> Vec<u8> {
    let mut host = HostEnd::new(&[]);
    let mut wire = preface::offer([1; 16]).to_vec();
    for op in ops() {
        let call = host.open(&Request { op: Some(op) }).unwrap();
        host.send(call, b"input");
        host.grant(call, Channel::Output, 10);
        if call.is_multiple_of(2) {
            host.cancel(call);
        }
        host.end_input(call);
    }
    wire.append(&mut host.out);
    wire
}

const OUTPUT: [&[u8]; 2] = [
    b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07a\x1b]8;;x\x1b\\link \x1b(Bb\x1b=c\x1b[?25l\xc3\xa9\n\n",
    b"\x1b]0;no end\nline\x1b[12\xe2\x82",
];

const PASSWD: &str = concat!(
    "agent:staff\0",
    "root:x:0:0:root:/root:/bin/bash\nbroken\nagent:x:1000:1001:,,,:/home/agent:/bin/sh\n\0",
    "root:x:0:\nstaff:x:50:agent,other\ndocker:x:999:agent\n",
);

/// What a shell prints between its first and its last section.
const PRINT: &str = concat!(
    "/w \u{e9}\n\0ehuB\00022\n\0cmdhist:extglob\0braceexpand:posix:nounset\0alias a='b'\n\0",
    "f () \n{ \n    echo \"$x\"\n}\n\0declare -fx f\n\0",
    "declare -- a=\"x\ny\\\"z\"\ndeclare -ax b=([0]=\"p q\" [1]=$'r\\'s')\ndeclare -ir UID=\"0\"\n",
    "declare -x POSIXLY_CORRECT=\"y\"\n\0declare -- a=\"outer\"\n",
);

const QMP: [&str; 2] = [
    concat!(
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#,
        "\r\n",
        r#"{"return": {}, "id": 1}"#,
        "\r\n\r\n",
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status": "completed"}}"#,
        "\r\n",
    ),
    concat!(
        r#"{"id": 2, "error": {"class": "GenericError", "desc": "no"}}"#,
        "\n",
        r#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#,
        "\n",
    ),
];

const SSE: &str = "\u{feff}: hi\n\nevent: ping\ndata: {}\n\nevent:x\r\nid: 7\r\ndata:a\r\ndata:  b\r\n\r\ndata\r\rdata: \u{e9}\r\r";

const INPUTS: [(u8, &str); 10] = [
    (0, r#"{"command":"echo \"hi\" \ud83d\ude00","timeout_ms":1000}"#),
    (0, r#"{"restart":true}"#),
    (1, r#"{"file_path":"/a/b.txt","view_range":[1,-1]}"#),
    (2, r#"{"file_path":"x","content":"line\n\u0000"}"#),
    (
        3,
        r#"{"file_path":"x","old_string":"a","new_string":"","replace_all":true}"#,
    ),
    (4, r#"{"pattern":"**/*.{rs,toml}","path":"/w"}"#),
    (5, r#"{"pattern":"^fn (\\w+)"}"#),
    (5, r#"{"pattern":1e999,"pattern":null}"#),
    (1, r#"{"file_path":"x","view_range":[99999999999999999999,1.5]}"#),
    (9, "{}"),
];

/// A byte for the tool (its place in the toolset, modulo 8), then its input.
const FILE_CALLS: [&str; 2] = [
    concat!(
        "\x01{\"file_path\":\"g\",\"view_range\":[2,-1]}\n",
        "\x02{\"file_path\":\"d/new/n\",\"content\":\"x\"}\n",
        "\x03{\"file_path\":\"f\",\"old_string\":\"o\",\"new_string\":\"oo\",\"replace_all\":true}\n",
        "\x04{\"pattern\":\"{d,o*}/**/[!a-c]?*\",\"path\":\"/workspace\"}\n",
        "\x05{\"pattern\":\"(?i)t\\\\w+\"}\n",
        "\x01{\"file_path\":\"d/p.png\"}",
    ),
    concat!(
        "\x01{\"file_path\":\"../etc/secret\"}\n",
        "\x02{\"file_path\":\"out/x\",\"content\":\"x\"}\n",
        "\x03{\"file_path\":\"locked/r\",\"old_string\":\"r\",\"new_string\":\"\"}\n",
        "\x04{\"pattern\":\"*\",\"path\":\"out\"}\n",
        "\x05{\"pattern\":\".\",\"path\":\"s\"}\n",
        "\x02{\"file_path\":\"l/x\",\"content\":\"\"}",
    ),
];

const WORK: [&str; 7] = [
    r#"{"type":"work","id":"work_1","environment_id":"env_1","state":"queued","data":{"type":"session","id":"sesn_1"},"metadata":{"a":"b"},"secret":"eyJzZXNzaW9uc190b2tlbiI6InRrIn0","created_at":"2026-01-01T00:00:00Z","started_at":null,"stopped_at":""}"#,
    r#"{"type":"work_heartbeat","last_heartbeat":"2026-01-01T00:00:00.1Z","lease_extended":true,"state":"active","ttl_seconds":30}"#,
    r#"{"type":"error","error":{"type":"precondition_failed","message":"x","details":{"error_code":"c","current_state":{"state":"stopping","last_heartbeat":"t","lease_extended":false,"ttl_seconds":30}}},"request_id":"req_1"}"#,
    r#"{"id":"sesn_1","type":"session","status":"idle","metadata":{"k":"v"},"resources":[{"type":"memory_store"},{"type":"file"}],"agent":{"skills":[{"type":"x"}]}}"#,
    concat!(
        r#"{"type":"agent.tool_use","id":"sevt_1","name":"bash","input":{"command":"ls \ud83d"},"evaluated_permission":"ask","session_thread_id":"t_1"}"#,
        "\n",
        r#"{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"allow"}"#,
        "\n",
        r#"{"type":"agent.custom_tool_use","id":"sevt_2","name":"read","input":null,"evaluated_permission":"allow"}"#,
        "\n",
        r#"{"type":"user.custom_tool_result","custom_tool_use_id":"sevt_2"}"#,
        "\n",
        r#"{"type":"session.thread_status_terminated","session_thread_id":"t_1"}"#,
        "\n",
        r#"{"type":"session.status_idle","stop_reason":{"type":"requires_action"}}"#,
    ),
    concat!(
        r#"{"type":"agent.tool_use","id":"sevt_3","name":"grep","input":{"pattern":"x"}}"#,
        "\n",
        r#"{"type":"user.tool_result","tool_use_id":"sevt_4"}"#,
        "\n",
        r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
        "\n",
        r#"{"type":"session.status_terminated"}"#,
    ),
    r#"{"type":"work","id":"work_2","environment_id":"env_1","data":{"type":"healthcheck"},"secret":"!!"}"#,
];

fn file(kind: u8, name: &[u8], link: &[u8], data: &[u8]) -> Vec<u8> {
    entry(kind, 0o4755, name, link, data)
}

fn tar_file() -> Vec<u8> {
    let mut out = file(b'0', b"d/f", b"", b"data");
    out.extend(file(b'2', b"d/l", b"../d/f", b""));
    out.extend(file(b'1', b"h", b"d/f", b""));
    out.extend_from_slice(&[0; 1024]);
    out
}

fn tar_long() -> Vec<u8> {
    let mut out = file(b'x', b"pax", b"", b"13 path=a/./b\n14 linkpath=b\n");
    out.extend(file(b'5', b"a", b"", b""));
    out.extend(file(b'L', b"long", b"", b"a/longer\0"));
    out.extend(file(b'K', b"long", b"", b"c/..\0"));
    out.extend(file(b'2', b"x", b"y", b""));
    out
}

fn tar_short() -> Vec<u8> {
    let mut out = vec![SHORT];
    for (kind, name, link, data) in [
        (b'5', "a", "", ""),
        (b'0', "a/f", "", "data"),
        (b'1', "a/g", "a/f", ""),
        (b'2', "l", "a/g", ""),
        (b'2', "a/b/m", "../../l/./x", ""),
        (b'x', "pax", "", "11 path=../x\n12 linkpath=/\n"),
        (b'2', "m", "l", ""),
    ] {
        out.extend([kind, 0x1e]);
        for part in [name, link, data] {
            out.extend(chosen(part.len() as u8, part.as_bytes()));
        }
    }
    out
}
