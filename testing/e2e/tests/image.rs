//! Images as a user meets them: built, looked at, interrupted, damaged.

use omnirun_e2e::{data, footprint_of, omnirun, omnirun_in, private_data, run, wait_until};
use std::{fs, path::Path, process::Stdio, time::Duration};

/// Processes, by command line, that name a path.
fn processes_of(path: &Path) -> Vec<String> {
    let name = path.display().to_string();
    let me = std::process::id().to_string();
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    entries
        .filter(|e| e.file_name() != *me)
        .filter_map(|e| fs::read(e.path().join("cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.contains(&name))
        .collect()
}

fn manifest_time() -> std::time::SystemTime {
    let path = data().join("images/templates/default.json");
    fs::metadata(path)
        .expect("the manifest")
        .modified()
        .expect("a time")
}

#[test]
fn the_shared_image_is_whole_and_building_it_again_does_nothing() {
    let before = manifest_time();
    let (code, _, err) = run(&mut omnirun(["image", "build"]));
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("is there"), "{err}");
    assert_eq!(before, manifest_time());

    let (code, out, err) = run(&mut omnirun(["image", "inspect", "--verify", "--json"]));
    assert_eq!(code, 0, "{err}");
    let manifest: serde_json::Value = serde_json::from_str(&out).expect("the manifest is JSON");
    let packages = manifest["base"]["packages"].as_array().expect("packages");
    let requested = manifest["requested"].as_array().expect("packages");
    assert!(requested.iter().any(|p| p == "bash"), "{requested:?}");
    for wanted in requested {
        assert!(packages.iter().any(|p| p["name"] == *wanted), "{wanted}");
    }
    assert!(
        packages
            .iter()
            .all(|p| p["sha256"].as_str().is_some_and(|d| d.len() == 64))
    );
}

#[test]
fn a_build_that_is_killed_leaves_nothing_once_the_next_command_has_run() {
    let beside = data().parent().expect("the data folder has a parent");
    let dir = tempfile::Builder::new()
        .prefix("e2e-kill-")
        .tempdir_in(beside)
        .expect("a folder");
    let mut build = omnirun_in(dir.path(), ["image", "build"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("omnirun starts");
    // Far enough for packages' scripts to run in the new tree, with its mounts.
    wait_until("the base is being installed", Duration::from_secs(240), || {
        let mut folders = fs::read_dir(dir.path().join("tmp"))
            .into_iter()
            .flatten()
            .flatten();
        folders.any(|e| e.path().join("root/var/lib/dpkg/info").is_dir())
    });
    build.kill().expect("it can be killed");
    build.wait().expect("it ends");

    wait_until("its children end", Duration::from_secs(10), || {
        processes_of(dir.path()).is_empty()
    });
    let (code, _, err) = run(&mut omnirun_in(dir.path(), ["image", "ls"]));
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("interrupted image build"), "{err}");
    assert_eq!(footprint_of(dir.path()), Vec::<String>::new());
    let published = fs::read_dir(dir.path().join("images/templates"))
        .expect("the folder is there")
        .count();
    assert_eq!(published, 0, "a build that was killed published something");
}

/// A recipe of the user's own, with as little in it as can be: no git and no python to warm up, and nobody's root.
#[test]
fn a_template_with_a_user_of_its_own_runs_as_that_user() {
    let dir = private_data();
    let recipes = dir.path().join("templates");
    fs::create_dir(&recipes).expect("it can be made");
    let text = "packages = []\nuser = 'agent'\nworkdir = '/home/agent/work'\n[env]\nGREETING = 'good day'\n";
    fs::write(recipes.join("plain.toml"), text).expect("it can be written");
    let (code, _, err) = run(&mut omnirun_in(dir.path(), ["image", "build", "plain"]));
    assert_eq!(code, 0, "{err}");
    let manifest = |name: &str| -> serde_json::Value {
        let path = dir.path().join(format!("images/templates/{name}.json"));
        serde_json::from_slice(&fs::read(path).expect("a manifest")).expect("JSON")
    };
    assert_ne!(
        manifest("plain")["base"]["image"],
        manifest("default")["base"]["image"]
    );

    let script = "id -un; id -G; pwd; echo $HOME, $GREETING; echo x > file && stat -c %U file /mnt/session/outputs; \
                  touch /workspace/file /tmp/file && echo writes; touch /etc/file 2> /dev/null || echo refused; \
                  grep CapEff /proc/self/status; exit 3";
    let plain = |rest: &[&str]| {
        let size = ["run", "--template", "plain", "--memory", "256M", "--disk", "1G"];
        run(&mut omnirun_in(dir.path(), size.iter().chain(rest)))
    };
    let (code, out, err) = plain(&["--", "sh", "-c", script]);
    assert_eq!(
        out,
        "agent\n1000\n/home/agent/work\n/home/agent, good day\nagent\nagent\nwrites\nrefused\n\
         CapEff:\t0000000000000000\n",
        "{err}"
    );
    assert_eq!(code, 3, "{err}");
    // Who asks to be root is root, of the guest.
    assert_eq!(plain(&["--user", "root", "--", "id", "-un"]).1, "root\n");
}

#[test]
fn damage_and_absence_are_told_with_the_command_that_mends_them() {
    let dir = private_data();
    let (code, _, err) = run(&mut omnirun_in(dir.path(), ["image", "inspect", "node"]));
    assert_eq!(code, 125);
    assert!(
        err.contains("omnirun image build node") && err.lines().count() == 1,
        "{err}"
    );
    let (code, _, err) = run(&mut omnirun_in(dir.path(), ["image", "build", "node"]));
    assert_eq!(code, 125);
    assert!(err.contains("no template node"), "{err}");

    // Removed first: the file is a link to the shared one.
    let manifest = dir.path().join("images/templates/default.json");
    let text = fs::read(&manifest).expect("the manifest");
    fs::remove_file(&manifest).expect("it can be removed");
    fs::write(&manifest, &text[..text.len() / 2]).expect("it can be written");
    let (code, _, err) = run(&mut omnirun_in(dir.path(), ["image", "inspect"]));
    assert_eq!(code, 125);
    assert!(
        err.contains("omnirun image build --force default") && err.lines().count() == 1,
        "{err}"
    );
}
