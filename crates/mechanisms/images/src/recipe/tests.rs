use super::*;

fn parse(text: &str) -> Result<Recipe, ImageError> {
    Recipe::parse("t".parse().unwrap(), text, Path::new("t.toml"))
}

#[test]
fn every_shipped_recipe_parses() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../templates");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(
        files.len(),
        SHIPPED.len(),
        "a recipe that is not embedded: {files:?}"
    );
    for (name, _) in SHIPPED {
        let recipe = Recipe::find(name, Path::new("/nonexistent")).unwrap();
        assert_eq!(recipe.template.name.as_str(), name);
    }
    let default = Recipe::find("default", Path::new("/nonexistent")).unwrap();
    for package in [
        "bash",
        "coreutils",
        "git",
        "ripgrep",
        "python3",
        "python3-pip",
        "curl",
        "jq",
        "procps",
        "ca-certificates",
    ] {
        assert!(default.packages.iter().any(|p| p == package), "{package}");
    }
    assert_eq!(
        (default.template.user.as_str(), default.template.workdir.as_str()),
        ("root", "/workspace")
    );
}

#[test]
fn an_empty_recipe_has_the_defaults() {
    let recipe = parse("").unwrap();
    assert_eq!(recipe.template.user, "root");
    assert!(!recipe.template.keep_capabilities);
}

#[test]
fn what_is_wrong_is_named() {
    for (text, word) in [
        ("pakages = []", "pakages"),
        ("packages = ['a b']", "a b"),
        ("packages = ['--force-yes']", "--force-yes"),
        ("packages = ['git-']", "git-"),
        ("packages = ['git=1']", "git=1"),
        ("user = 'a:b'", "a:b"),
        ("user = ''", "user name"),
        ("workdir = 'work'", "absolute"),
        ("workdir = '/a/../b'", "absolute"),
        ("[env]\n'A=B' = '1'", "A=B"),
        ("[env]\nA = \"1\\n2\"", "line break"),
        ("[env]\nA = 1", "string"),
        ("packages = [", "line 1"),
    ] {
        let message = parse(text).unwrap_err().to_string();
        assert!(
            message.contains(word) && message.contains("t.toml"),
            "{text}: {message}"
        );
    }
}

#[test]
fn the_users_own_recipe_wins_over_the_shipped_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("default.toml"), "user = 'agent'").unwrap();
    assert_eq!(
        Recipe::find("default", dir.path()).unwrap().template.user,
        "agent"
    );
    let path = dir.path().join("default.toml");
    assert_eq!(
        Recipe::find(path.to_str().unwrap(), Path::new("/"))
            .unwrap()
            .template
            .user,
        "agent"
    );
    let message = Recipe::find("nodejs", dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("nodejs") && message.contains("known: default"),
        "{message}"
    );
    assert!(Recipe::find("../etc/passwd", dir.path()).is_err());
}

#[test]
fn the_base_depends_on_what_is_in_it_alone() {
    let plain = parse("packages = ['git', 'jq']").unwrap();
    let other = parse("packages = ['jq', 'git', 'git']\n[env]\nA = '1'").unwrap();
    assert_eq!(plain.base_digest(), other.base_digest());
    assert_ne!(plain.digest(), other.digest());
    assert_ne!(
        plain.base_digest(),
        parse("packages = ['git']").unwrap().base_digest()
    );
}
