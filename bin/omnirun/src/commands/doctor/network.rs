//! Whether sandboxes can have a network card.

use super::report::Check;

/// Tries it out, in namespaces that go at once. Nothing of it keeps a sandbox without a card from running.
pub fn check() -> Check {
    let name = "networks";
    let wrong: Vec<String> = omnirun_netns::check()
        .into_iter()
        .filter_map(|check| Some(format!("{}: {}", check.name, check.problem?)))
        .collect();
    if wrong.is_empty() {
        return Check::ok(name, "cards for sandboxes can be had (--net)");
    }
    Check::warn(
        name,
        format!("no sandbox can have a network card: {}", wrong.join("; ")),
    )
}
