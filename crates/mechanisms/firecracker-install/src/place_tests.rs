use super::*;
use omnirun_store::Owner;
use std::fs::read_dir;

fn data() -> (tempfile::TempDir, DataDir) {
    let tmp = tempfile::tempdir().unwrap();
    let data = DataDir::open(Some(tmp.path().join("data"))).unwrap();
    (tmp, data)
}

fn put(shelf: &Shelf, version: &str, bytes: &str) -> Installed {
    let staging = shelf.begin().unwrap();
    for program in ["firecracker", "jailer"] {
        fs::write(staging.programs().join(program), bytes).unwrap();
    }
    let record = Record {
        version: version.into(),
        arch: "x86_64".into(),
        source: "here".into(),
        archive: None,
        files: BTreeMap::new(),
        installed: "now".into(),
    };
    staging.commit(record).unwrap()
}

fn names(shelf: &Shelf) -> Vec<String> {
    let mut names: Vec<_> = read_dir(&shelf.root)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_put_in_place_is_found_and_replaced() {
    let (_tmp, data) = data();
    let shelf = Shelf::of(&data);
    assert_eq!(shelf.installed().unwrap(), None);
    assert!(sweep(&data).is_empty() && !shelf.root.exists());

    let first = put(&shelf, "1.15.1", "one");
    assert_eq!(shelf.installed().unwrap(), Some(first));
    put(&shelf, "1.15.1", "two");
    let again = shelf.installed().unwrap().unwrap();
    assert_eq!(fs::read_to_string(&again.jailer).unwrap(), "two");

    put(&shelf, "1.16.1", "three");
    assert_eq!(shelf.installed().unwrap().unwrap().record.version, "1.16.1");
    assert_eq!(names(&shelf), [".lock", "1.16.1", "current"]);
}

#[test]
fn one_setup_at_a_time_and_a_dropped_one_leaves_nothing() {
    let (_tmp, data) = data();
    let shelf = Shelf::of(&data);
    let staging = shelf.begin().unwrap();
    assert!(matches!(shelf.begin().unwrap_err(), InstallError::Busy { .. }));
    // Nobody sweeps under a living one.
    assert!(sweep(&data).is_empty() && staging.programs().is_dir());
    drop(staging);
    assert_eq!(names(&shelf), [".lock"]);
}

#[test]
fn what_a_killed_setup_left_goes_at_any_stage() {
    let (_tmp, data) = data();
    let shelf = Shelf::of(&data);
    put(&shelf, "1.15.1", "old");
    // Killed in the middle of a download, between the rename and the name, and while it wrote the name.
    fs::create_dir_all(shelf.root.join(".setup-dead/programs")).unwrap();
    fs::create_dir(shelf.root.join("1.16.1")).unwrap();
    fs::write(shelf.root.join("current.0123456789abcdef.new"), "1.1").unwrap();
    let found = look(&data);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(sweep(&data), found);
    assert!(sweep(&data).is_empty());
    assert_eq!(shelf.installed().unwrap().unwrap().record.version, "1.15.1");
    assert_eq!(names(&shelf), [".lock", "1.15.1", "current"]);
}

#[test]
fn an_old_version_stays_while_somebody_may_start_it() {
    let (_tmp, data) = data();
    let shelf = Shelf::of(&data);
    let old = put(&shelf, "1.15.1", "old");
    let owner = Owner::register(&data, "a worker").unwrap();
    put(&shelf, "1.16.1", "new");
    assert!(sweep(&data).is_empty() && old.firecracker.exists());
    drop(owner);
    assert_eq!(sweep(&data).len(), 1);
    assert!(!old.firecracker.exists());
}

#[test]
fn damage_is_said_and_nothing_is_removed_on_a_guess() {
    let (_tmp, data) = data();
    let shelf = Shelf::of(&data);
    let installed = put(&shelf, "1.16.1", "x");
    fs::remove_file(&installed.jailer).unwrap();
    assert!(matches!(
        shelf.installed().unwrap_err(),
        InstallError::Damaged { .. }
    ));
    fs::write(shelf.root.join(CURRENT), "../../etc").unwrap();
    assert!(matches!(
        shelf.installed().unwrap_err(),
        InstallError::Damaged { .. }
    ));
    assert!(sweep(&data).is_empty() && installed.firecracker.exists());
    // A new setup mends it.
    put(&shelf, "1.16.1", "y");
    assert!(shelf.installed().unwrap().is_some());
}
