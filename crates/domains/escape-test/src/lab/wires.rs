//! Links, addresses and routes of the lab.

use std::{
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::{Command, Stdio},
};

use omnirun_sys::host::net;

use super::{
    HOST_IP, HOST_IP6, HOST_MAC, HOST_PUBLIC_IP, INNER_IP, LabError, NEIGHBOUR_IP, ROUTER_IP,
    zone::{CLOSED_IP, NARROW_IP, UNREACHABLE_IP},
};

/// The host's link to the internet, and the internet's to the host.
pub(super) const UPLINK: &str = "eth0";
/// Its link to what is inside.
const INNER: &str = "lan0";

/// Addresses that are reached by the inner link: private ones, carrier-grade ones, metadata services.
const INNER_NETS: [&str; 9] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "198.18.0.0/15",
    "192.0.2.0/24",
];

/// Names of the links of the calling thread's namespace.
pub(super) fn links() -> io::Result<Vec<String>> {
    // Of the thread's own namespace, whatever is mounted on /sys.
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    Ok(table
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect())
}

/// Lays all wires.
pub(super) fn lay(internet: &OwnedFd, inside: &OwnedFd) -> Result<(), LabError> {
    let path = |namespace: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let prefix = 64;
    let [a, b, c, d, e, f] = HOST_MAC;
    let host_mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    ip(&format!(
        "link set lo up
        link add {UPLINK} address {host_mac} type veth peer name {UPLINK} netns {internet}
        link add {INNER} type veth peer name {INNER} netns {inside}
        addr add {HOST_IP}/24 dev {UPLINK}
        addr add {HOST_PUBLIC_IP}/32 dev {UPLINK}
        addr add {INNER_IP}/24 dev {INNER}
        addr add {HOST_IP6}/{prefix} dev {UPLINK} nodad
        addr add fd00:77::2/{prefix} dev {INNER} nodad
        link set {UPLINK} up
        link set {INNER} up
        route add default via {ROUTER_IP}
        route add ::/0 via 2600:77::1
        route add fc00::/7 via fd00:77::1
        {}",
        INNER_NETS
            .map(|net| format!("route add {net} via 192.168.77.1 dev {INNER}\n"))
            .concat(),
        internet = path(internet),
        inside = path(inside),
    ))?;
    // Both take every packet for their own, but for those to their link (in the main table: the other would come first).
    let all = "route add local 0.0.0.0/0 dev lo table main\nroute add local ::/0 dev lo table main\n";
    let common = format!("link set lo up\n{all}");
    net::in_namespace(internet.as_fd(), || {
        ip(&format!(
            "{common}
            addr add {ROUTER_IP}/24 dev {UPLINK}
            addr add {NEIGHBOUR_IP}/24 dev {UPLINK}
            addr add 2600:77::1/{prefix} dev {UPLINK} nodad
            link set {UPLINK} up
            link add narrow mtu 600 type veth peer name far mtu 600
            link set narrow up
            link set far up
            route add {NARROW_IP}/32 dev narrow
            route add unreachable {UNREACHABLE_IP}/32",
        ))?;
        // Without it, no router's answers.
        let file = "/proc/sys/net/ipv4/conf/all/forwarding";
        std::fs::write(file, "1").map_err(LabError::step(format!("writing {file}")))?;
        nft(&servers_rules())
    })?;
    net::in_namespace(inside.as_fd(), || {
        ip(&format!(
            "{common}
            addr add 192.168.77.1/24 dev {INNER}
            addr add fd00:77::1/{prefix} dev {INNER} nodad
            link set {INNER} up",
        ))?;
        nft(&servers_rules())
    })
}

/// Where the servers listen, whatever a packet was sent to.
pub(super) const TCP_PORT: u16 = 7001;
pub(super) const UDP_PORT: u16 = 7002;
pub(super) const DNS_PORT: u16 = 7053;

fn servers_rules() -> String {
    format!(
        "table inet lab {{
            chain arrival {{
                type nat hook prerouting priority dstnat; policy accept;
                ip daddr {{ {CLOSED_IP}, {NARROW_IP}, {UNREACHABLE_IP} }} accept
                meta l4proto {{ tcp, udp }} th dport 53 redirect to :{DNS_PORT}
                meta l4proto tcp redirect to :{TCP_PORT}
                meta l4proto udp redirect to :{UDP_PORT}
            }}
        }}"
    )
}

fn ip(batch: &str) -> Result<(), LabError> {
    run("ip", &["-batch", "-"], batch)
}

fn nft(rules: &str) -> Result<(), LabError> {
    run("nft", &["-f", "-"], rules)
}

/// Runs a program in the calling thread's namespace.
fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<(), LabError> {
    let step = || LabError::step(format!("running {program}"));
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new(program)
        .args(arguments)
        // Where ordinary users' PATH does not lead.
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(step())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(step())?;
    }
    let output = child.wait_with_output().map_err(step())?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Program { program, message })
}
