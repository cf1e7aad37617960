//! What is asked.

use super::*;
use crate::{CardRate, DiskRate};

#[tokio::test]
async fn the_calls_are_in_firecrackers_words() {
    let (send, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (client, _side) = with(|mut stream| async move {
        while let Some(request) = request(&mut stream).await {
            send.send(request).expect("somebody listens");
            stream.write_all(&good()).await.expect("written");
        }
    })
    .await;
    let config = MachineConfig {
        vcpu_count: 1,
        mem_size_mib: 256,
        smt: false,
        track_dirty_pages: false,
    };
    client.machine_config(&config).await.expect("good");
    let source = BootSource {
        kernel_image_path: "/vmlinux",
        initrd_path: "/initramfs",
        boot_args: "quiet",
    };
    client.boot_source(&source).await.expect("good");
    let drive = Drive {
        drive_id: "base",
        path_on_host: "/base",
        is_root_device: false,
        is_read_only: true,
        cache_type: "Unsafe",
    };
    client.drive(&drive).await.expect("good");
    let vsock = Vsock {
        guest_cid: 3,
        uds_path: "/run/agent.sock",
    };
    client.vsock(&vsock).await.expect("good");
    client.entropy(&Entropy {}).await.expect("good");
    let interface = NetworkInterface {
        iface_id: "net0",
        guest_mac: "02:4f:52:00:00:02",
        host_dev_name: "tap0",
        rx_rate_limiter: CardRate::default().into(),
        tx_rate_limiter: CardRate::default().into(),
    };
    client.network_interface(&interface).await.expect("good");
    client.act(&Action::InstanceStart).await.expect("good");
    client.set_state(State::Paused).await.expect("good");
    let snapshot = Snapshot {
        snapshot_type: "Full",
        snapshot_path: "/s",
        mem_file_path: "/m",
    };
    client.create_snapshot(&snapshot).await.expect("good");
    let load = LoadSnapshot {
        snapshot_path: "/state",
        mem_backend: MemoryBackend::File("/memory"),
        track_dirty_pages: false,
        resume_vm: false,
    };
    client.load_snapshot(&load).await.expect("good");
    client
        .swap_drive("session", "/session", DiskRate::default())
        .await
        .expect("good");
    client.set_state(State::Resumed).await.expect("good");
    drop(client);
    let mut all = String::new();
    while let Some((line, body)) = seen.recv().await {
        all.push_str(&format!("{line}\n{body}\n"));
    }
    assert_eq!(all, include_str!("../../golden/calls.txt"));
}
