//! The initramfs: what the guest finds before it has mounted anything.
//!
//! ```text
//!   /init            the guest agent
//!   /template.conf   what the recipe says about processes, a line each:
//!                      user NAME | workdir PATH | keep_capabilities 0 or 1 | env NAME=VALUE
//!   /modules.list    paths of the modules in the order to load them
//!   /modules/*.ko    the modules, not compressed
//!   /dev/console, /dev/null, and empty folders to mount on: /dev /proc /sys /run /tmp /mnt
//! ```
//!
//! Two archives, one after the other: the first with the agent and the template's facts, made anew for each release of
//! the agent; the second with the modules, made once per kernel. Neither is compressed: together they are a few MiB
//! that stay in the host's page cache, and a guest under emulation would pay for unpacking at each cold boot.

use crate::{Template, cpio::Cpio, modules::Module};
use std::fmt::Write;

/// The archive with the modules.
pub(crate) fn modules_archive(modules: &[Module]) -> Vec<u8> {
    let mut cpio = Cpio::new();
    let mut list = String::new();
    cpio.directory("modules", 0o755);
    for module in modules {
        let path = format!("modules/{}", module.file);
        cpio.file(&path, 0o644, &module.bytes);
        let _ = writeln!(list, "/{path}");
    }
    cpio.file("modules.list", 0o644, list.as_bytes());
    cpio.finish()
}

/// The whole initramfs.
pub(crate) fn compose(init: &[u8], template: &Template, modules_archive: &[u8]) -> Vec<u8> {
    let mut cpio = Cpio::new();
    for folder in ["dev", "proc", "sys", "run", "tmp", "mnt"] {
        cpio.directory(folder, 0o755);
    }
    // The kernel opens the console for /init before /init can mount a /dev.
    cpio.device("dev/console", 0o600, 5, 1);
    cpio.device("dev/null", 0o666, 1, 3);
    cpio.file("template.conf", 0o644, template_conf(template).as_bytes());
    cpio.file("init", 0o755, init);
    let mut bytes = cpio.finish();
    bytes.extend_from_slice(modules_archive);
    bytes
}

/// The recipe has refused line breaks in every value.
pub(crate) fn template_conf(template: &Template) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "user {}", template.user);
    let _ = writeln!(text, "workdir {}", template.workdir);
    let _ = writeln!(text, "keep_capabilities {}", u8::from(template.keep_capabilities));
    for (key, value) in &template.env {
        let _ = writeln!(text, "env {key}={value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio;

    #[test]
    fn holds_agent_facts_and_modules_in_load_order() {
        let module = |file: &str| Module {
            file: file.to_owned(),
            bytes: b"\x7fELF".to_vec(),
        };
        let template = Template {
            name: "t".parse().unwrap(),
            user: "agent".to_owned(),
            env: [("LANG".to_owned(), "C.UTF-8".to_owned())].into(),
            workdir: "/workspace".to_owned(),
            keep_capabilities: false,
        };
        let archive = modules_archive(&[module("netfs.ko"), module("erofs.ko")]);
        let entries = cpio::read(&compose(b"agent", &template, &archive));
        let content = |path: &str| {
            let entry = entries
                .iter()
                .find(|(p, ..)| p == path)
                .unwrap_or_else(|| panic!("{path}"));
            String::from_utf8_lossy(&entry.2).into_owned()
        };
        assert_eq!(content("init"), "agent");
        assert_eq!(content("modules.list"), "/modules/netfs.ko\n/modules/erofs.ko\n");
        assert_eq!(
            content("template.conf"),
            "user agent\nworkdir /workspace\nkeep_capabilities 0\nenv LANG=C.UTF-8\n"
        );
        assert!(content("modules/erofs.ko").contains("ELF"));
    }

    #[test]
    fn the_same_input_makes_the_same_bytes() {
        let modules = [Module {
            file: "a.ko".to_owned(),
            bytes: vec![1, 2, 3],
        }];
        assert_eq!(modules_archive(&modules), modules_archive(&modules));
    }
}
