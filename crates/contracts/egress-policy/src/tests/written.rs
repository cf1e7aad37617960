//! What people write: files, presets, fields, flags.

use super::*;

struct Mine;

impl PresetSource for Mine {
    fn preset(&self, name: &str) -> Result<Option<String>, String> {
        let text = match name {
            "github" => "allow = [\"git.corp.example\"]",
            "all" => "allow = [\"preset:github\", \"preset:anthropic\", \"preset:github\"]",
            "loop" => "allow = [\"preset:loop2\"]",
            "loop2" => "deny = [\"preset:loop\"]",
            "broken" => "\nallow = [\"a b\"]",
            "mode" => "internet = true",
            "lists" => {
                "allow = [\"*.l.example\"]\ndeny = [\"bad.l.example\"]\n\
                 [[rule]]\nname = \"up\"\nto = [\"up.l.example\"]\nbytes_up = 5"
            }
            "unread" => return Err("cannot read it".to_owned()),
            _ => return Ok(None),
        };
        Ok(Some(text.to_owned()))
    }

    fn names(&self) -> Vec<String> {
        vec!["mine".to_owned(), "github".to_owned()]
    }
}

#[test]
fn presets_expand_and_an_operators_comes_first() {
    let of = |preset: &str| Policy::allow(&[format!("preset:{preset}")], &Mine);
    let all = of("all").unwrap();
    assert!(all.name(&name("git.corp.example"), 443).allows());
    assert!(all.name(&name("api.anthropic.com"), 443).allows());
    assert!(!all.name(&name("github.com"), 443).allows());
    assert_eq!(
        of("loop").unwrap_err(),
        PolicyError::Cycle {
            name: "loop".into(),
            way: "loop > loop2 > loop".into()
        }
    );
    for (preset, says) in [
        ("nowhere", "there are: anthropic, github, mine"),
        ("broken", "preset \"broken\": line 2: \"a b\""),
        ("mode", "unknown field `internet`"),
        ("unread", "cannot read it"),
        ("../x", "no name of a preset"),
        ("", "no name of a preset"),
    ] {
        let error = of(preset).unwrap_err().to_string();
        assert!(error.contains(says), "{preset}: {error}");
    }
}

#[test]
fn presets_that_ship_are_read() {
    for (preset, n) in [
        ("github", "api.github.com"),
        ("github", "raw.githubusercontent.com"),
        ("anthropic", "api.anthropic.com"),
    ] {
        let policy = list(&[&format!("preset:{preset}")]);
        assert!(policy.name(&name(n), 443).allows());
        assert!(!policy.name(&name(n), 22).allows() && !policy.name(&name("a.example"), 443).allows());
    }
}

#[test]
fn a_preset_allows_denies_and_bounds() {
    let policy = Policy::from_toml("allow = [\"preset:lists\"]", &Mine).unwrap();
    assert!(policy.name(&name("a.l.example"), 443).allows());
    assert!(!policy.name(&name("bad.l.example"), 443).allows());
    let bounded = policy.name(&name("up.l.example"), 443);
    assert_eq!(&*bounded.limits[0].rule, "preset:lists up");
    // Wherever else the same name is.
    let policy = Policy::from_toml("allow = [\"up.l.example\", \"preset:lists\"]", &Mine).unwrap();
    assert_eq!(policy.name(&name("up.l.example"), 443), bounded);
    // In a list of what is denied, all of it is.
    let policy = Policy::from_toml("internet = true\ndeny = [\"preset:lists\"]", &Mine).unwrap();
    for n in ["a.l.example", "bad.l.example", "up.l.example"] {
        assert!(!policy.name(&name(n), 443).allows(), "{n}");
    }
    assert!(policy.name(&name("l.example"), 443).allows());
    // A rule is a bound for all of a preset.
    let policy = Policy::from_toml("[[rule]]\nto = [\"preset:all\"]\nbytes_up = 9", &Mine).unwrap();
    let limits = |n: &str| policy.name(&name(n), 443).limits;
    assert_eq!(limits("api.anthropic.com"), limits("git.corp.example"));
    assert_eq!(&*limits("claude.ai")[0].rule, "preset:all");
    let nested = Policy::from_toml("[[rule]]\nto = [\"preset:lists\"]\nbytes_up = 9", &Mine);
    assert!(nested.unwrap_err().to_string().contains("rules of its own"));
}

#[test]
fn files_that_are_none_are_refused_with_the_line() {
    for (text, says) in [
        ("allwo = []", "allwo"),
        ("allow = [\"a\"]\nrate = 5", "line 2"),
        ("[[rule]]\nto = [\"a\"]\nbytes = 5", "unknown field `bytes`"),
        (
            "allow = [\n\"a\",\n# c\n\"a b\"]",
            "line 4: \"a b\" is no host name",
        ),
        ("deny = [\n\"a\",\n\"a..b\"]", "line 3: \"a..b\""),
        (
            "allow = [\"169.254.169.254\"]",
            "line 1: \"169.254.169.254\" is never reached",
        ),
        ("\n\ninternet = true\nallow = [\"a.example\"]", "says nothing"),
        (
            "internet = true\n\nallow = []",
            "line 3: internet = true allows everything",
        ),
        (
            "internet = false\nallow = [\"a.example\"]",
            "line 1: internet = false is an air gap",
        ),
        ("internet = false\n[[rule]]\nto = [\"a.example\"]", "air gap"),
        ("internet = true\ndeny = [\"9.9.9.9:53\"]", "leave the port out"),
        ("[[rule]]\nto = [\"a\"]\nbytes_up = \"x\"", "line 3"),
        (
            "[[rule]]\nto = [\"a\"]\nbytes_up = -1",
            "a size such as \"10MiB\"",
        ),
        ("[[rule]]\nto = [\"a\"]\nrate = \"0\"", "at least 1"),
        ("[[rule]]\nto = [\"a\"]\nports = [0]", "line 3"),
        (
            "[[rule]]\nto = [\"a:1\"]\nports = [2]",
            "line 2: \"a:1\": it has a port",
        ),
        ("[[rule]]\nto = []", "line 2: the rule is about nothing"),
        ("[[rule]]\nrate = 1", "missing field `to`"),
        (
            "[[rule]]\nto = [\"a\"]\n[[rule]]\nto = [\"a\"]",
            "line 4: there are two rules \"a\"",
        ),
        ("[[rule]]\nname = \"\"\nto = [\"a\"]", "1 to 64 bytes"),
    ] {
        let error = Policy::from_toml(text, &NoPresets).unwrap_err();
        assert!(error.to_string().contains(says), "{text}: {error}");
        assert!(
            std::error::Error::source(&error).is_none(),
            "it would be said twice"
        );
    }
}

#[test]
fn the_apis_fields() {
    let spec = |json: &str| {
        let spec: PolicySpec = serde_json::from_str(json).map_err(|e| e.to_string())?;
        Policy::compile(&spec, &NoPresets).map_err(|e| e.to_string())
    };
    let restricted =
        spec(r#"{"internet":true,"network":{"allow":["a.example"],"allowIPs":["9.9.9.9"]}}"#).unwrap();
    assert_eq!(restricted.mode(), Mode::Allow);
    assert!(restricted.name(&name("a.example"), 443).allows());
    assert!(restricted.address(to("9.9.9.9:443")).allows());
    for open in [
        r#"{"internet":true}"#,
        r#"{"internet":true,"network":{}}"#,
        r#"{"internet":true,"network":{"denyDomains":["a.example"]}}"#,
    ] {
        assert_eq!(spec(open).unwrap().mode(), Mode::Open, "{open}");
    }
    let given = r#"{"network":{"allowDomains":["a"],"allowIPs":["9.9.9.9"],"sniProxy":true}}"#;
    let read: PolicySpec = serde_json::from_str(given).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), given);
    assert!(
        spec(r#"{"network":{"sniProxy":true,"sniProxyLogOnly":true}}"#)
            .unwrap()
            .log_only()
    );
    for (json, says) in [
        (r#"{"network":{"sniProxy":true}}"#, "needs allowDomains"),
        (r#"{"network":{"sniProxyLogOnly":true}}"#, "set sniProxy"),
        (r#"{"network":{"allowDomain":["a"]}}"#, "allowDomain"),
        (
            r#"{"network":{"allowDomains":["a"],"allow":["b"]}}"#,
            "duplicate field",
        ),
        (r#"{"network":{"denyIPs":["a b"]}}"#, "denyIPs: \"a b\""),
        (
            r#"{"network":{"allowIPs":["127.0.0.1"]}}"#,
            "allowIPs: \"127.0.0.1\" is never reached",
        ),
    ] {
        assert!(spec(json).unwrap_err().contains(says), "{json}");
    }
}

#[test]
fn metadata_and_flags() {
    for (text, mode) in [
        ("none", Mode::None),
        ("open", Mode::Open),
        ("allow:a.example, *.b.example:8443", Mode::Allow),
        ("allow:", Mode::Allow),
        ("preset:github", Mode::Allow),
        ("preset:github,a.example", Mode::Allow),
    ] {
        assert_eq!(Policy::from_metadata(text).unwrap().mode(), mode, "{text}");
        let flag: NetFlag = text.parse().unwrap();
        assert_eq!(flag.to_string().parse(), Ok(flag), "{text}");
    }
    for (text, says) in [
        ("", "write none, open"),
        ("allo", "write none, open"),
        ("OPEN", "in lower case: open"),
        ("all", "for the public internet write open"),
        ("off", "for no network write none"),
        ("github", "write preset:github"),
        (
            "pypi.org,*.pythonhosted.org",
            "write allow:pypi.org,*.pythonhosted.org",
        ),
        ("10.0.0.0/8", "write allow:10.0.0.0/8"),
        ("./policy.toml", "cannot be named here"),
        ("preset:nowhere", "there are: anthropic, github"),
        ("allow:a b", "no host name"),
    ] {
        let error = Policy::from_metadata(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    for path in ["p.toml", "./p", "/etc/omnirun/p", "a/b.toml"] {
        assert_eq!(path.parse(), Ok(NetFlag::File(path.into())));
    }
}
