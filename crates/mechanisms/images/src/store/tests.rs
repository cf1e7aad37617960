use super::*;
use crate::{Silent, manifest::tests::sample};

const AGENT: &[u8] = b"agent 1";

/// A store with an image whose files are there, as a build leaves it.
fn store_with_image() -> (tempfile::TempDir, ImageStore, TemplateName) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open_with(dir.path(), AGENT).unwrap();
    let recipe = Recipe::parse("default".parse().unwrap(), "packages = ['git']", Path::new("x")).unwrap();
    let mut manifest = sample();
    manifest.template = recipe.template.clone();
    manifest.requested = recipe.packages.clone();
    manifest.recipe = recipe.digest();
    manifest.base.recipe = recipe.base_digest();
    manifest.kernel.image = store.blobs.put_bytes(b"kernel").unwrap();
    manifest.kernel.vmlinux = store.blobs.put_bytes(b"vmlinux").unwrap();
    manifest.kernel.modules = store.blobs.put_bytes(b"modules").unwrap();
    manifest.base.image = store.blobs.put_bytes(b"base").unwrap();
    manifest.initramfs = store
        .initramfs(&recipe.template, &manifest.kernel.modules)
        .unwrap();
    store.publish(&manifest, &store.publish_lock().unwrap()).unwrap();
    (dir, store, "default".parse().unwrap())
}

fn recipe(text: &str) -> Recipe {
    Recipe::parse("default".parse().unwrap(), text, Path::new("x")).unwrap()
}

#[test]
fn an_image_that_was_never_built_says_how_to_build_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open_with(dir.path(), AGENT).unwrap();
    let error = store.get(&"node".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("omnirun image build node"), "{error}");
}

#[test]
fn an_upgraded_agent_gets_a_new_initramfs_over_the_same_base() {
    let (dir, store, name) = store_with_image();
    let before = store.get(&name).unwrap();
    let upgraded = ImageStore::open_with(dir.path(), b"agent 2").unwrap();
    let after = upgraded.get(&name).unwrap();
    assert_ne!(before.initramfs_digest, after.initramfs_digest);
    assert_ne!(before.agent_digest, after.agent_digest);
    assert_eq!((&before.base, &before.kernel), (&after.base, &after.kernel));
    let bytes = fs::read(&after.initramfs).unwrap();
    assert!(bytes.windows(7).any(|w| w == b"agent 2") && bytes.ends_with(b"modules"));
    // And it is durable: the next one finds it.
    assert_eq!(
        upgraded.manifest(&name).unwrap().initramfs.agent,
        after.agent_digest
    );
}

#[test]
fn an_upgrade_does_not_undo_a_build_that_came_between() {
    let (dir, store, name) = store_with_image();
    let seen = store.manifest(&name).unwrap();
    // Somebody else's build, after the upgraded program has read the manifest and before it writes one.
    let mut newer = seen.clone();
    newer.base.image = store.blobs.put_bytes(b"a newer base").unwrap();
    store.publish(&newer, &store.publish_lock().unwrap()).unwrap();
    let upgraded = ImageStore::open_with(dir.path(), b"agent 2").unwrap();
    let refreshed = upgraded.refreshed(seen).unwrap();
    assert_eq!(refreshed.base, newer.base);
    assert_eq!(upgraded.manifest(&name).unwrap(), refreshed);
}

#[test]
fn damage_is_told_with_the_command_that_mends_it() {
    let (_dir, store, name) = store_with_image();
    let image = store.get(&name).unwrap();
    // An initramfs can be made anew from what is there.
    fs::remove_file(&image.initramfs).unwrap();
    store.get(&name).unwrap();
    fs::remove_file(&image.base).unwrap();
    let error = store.get(&name).unwrap_err().to_string();
    assert!(
        error.contains("base disk") && error.contains("omnirun image build --force default"),
        "{error}"
    );
    fs::write(store.manifest_path(&name), "{").unwrap();
    assert!(matches!(
        store.get(&name),
        Err(ImageError::DamagedManifest { .. })
    ));
    assert!(store.list().unwrap()[0].manifest.is_err());
}

#[tokio::test]
async fn building_what_is_there_builds_nothing() {
    let (_dir, store, _) = store_with_image();
    let options = BuildOptions::default();
    let built = store
        .build(&recipe("packages = ['git']"), &options, &Silent)
        .await
        .unwrap();
    assert!(!built.fresh);
    // Only the processes' side changed: a new initramfs over the same base.
    let changed = recipe("packages = ['git']\n[env]\nA = 'b'");
    let again = store.build(&changed, &options, &Silent).await.unwrap();
    assert!(again.fresh);
    assert_eq!(again.manifest.base, built.manifest.base);
    assert_eq!(again.manifest.template.env["A"], "b");
    assert!(!store.build(&changed, &options, &Silent).await.unwrap().fresh);
}

#[tokio::test]
async fn collection_keeps_what_templates_name_and_sessions_use() {
    let (_dir, store, name) = store_with_image();
    let bound = store.blobs.put_bytes(b"a base of a session").unwrap();
    store.blobs.put_bytes(b"a base of nobody").unwrap();
    let removed = store
        .gc(|| Ok(vec![bound.digest.clone()]), &Silent)
        .await
        .unwrap();
    assert_eq!(removed.files.len(), 1);
    assert_eq!(removed.bytes(), 16);
    store.get(&name).unwrap();
    let over = store.get_over(&name, &bound.digest).unwrap();
    assert_eq!(over.base, store.blobs.path(&bound.digest));

    assert!(matches!(
        store.remove(&name, 2, false),
        Err(ImageError::InUse { users: 2, .. })
    ));
    store.remove(&name, 2, true).unwrap();
    assert!(matches!(
        store.remove(&name, 0, false),
        Err(ImageError::NoImage { .. })
    ));
    assert_eq!(
        store
            .gc(|| Ok(vec![bound.digest.clone()]), &Silent)
            .await
            .unwrap()
            .files
            .len(),
        5
    );
    assert!(store.blobs.path(&bound.digest).exists());
}

#[tokio::test]
async fn a_session_that_begins_while_a_collection_waits_keeps_its_base() {
    let (_dir, store, _) = store_with_image();
    let base = store.blobs.put_bytes(b"the base before the build").unwrap();
    let build = store.build_lock(&Silent).await.unwrap();
    let sessions = std::cell::RefCell::new(Vec::new());
    let collection = store.gc(|| Ok(sessions.borrow().clone()), &Silent);
    tokio::pin!(collection);
    // It waits for the build; a session begins; the build ends.
    assert!(polled_once(collection.as_mut()).await.is_none());
    sessions.borrow_mut().push(base.digest.clone());
    drop(build);
    collection.await.unwrap();
    assert!(store.blobs.path(&base.digest).exists());
}

/// Polls once.
async fn polled_once<F: Future + Unpin>(future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::ZERO, future).await.ok()
}

#[tokio::test]
async fn a_damaged_manifest_stops_collection() {
    let (_dir, store, name) = store_with_image();
    fs::write(store.manifest_path(&name), "{").unwrap();
    assert!(store.gc(|| Ok(Vec::new()), &Silent).await.is_err());
    assert!(store.blobs.path(&sha256(b"base")).exists());
}

#[tokio::test]
async fn the_second_build_waits_with_a_word() {
    struct Words(std::sync::Mutex<Vec<String>>);
    impl Progress for Words {
        fn step(&self, what: &str) {
            self.0.lock().unwrap().push(what.to_owned());
        }
        fn bytes(&self, _: u64, _: Option<u64>) {}
        fn note(&self, _: &str) {}
    }
    let (_dir, store, _) = store_with_image();
    let held = store.build_lock(&Silent).await.unwrap();
    let words = Words(Default::default());
    let wait = store.build_lock(&words);
    tokio::pin!(wait);
    assert!(
        tokio::time::timeout(Duration::from_millis(500), &mut wait)
            .await
            .is_err()
    );
    assert_eq!(*words.0.lock().unwrap(), ["waiting for another build"]);
    drop(held);
    wait.await.unwrap();
}
