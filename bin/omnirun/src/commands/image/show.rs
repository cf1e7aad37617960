//! What images look like in words.

use comfy_table::{ContentArrangement, Table, presets};
use omnirun_ids::{ByteSize, TemplateName};
use omnirun_images::{ImageError, ImageStore, Listed, Manifest};
use std::process::ExitCode;

/// One line: what it is.
pub fn summary(m: &Manifest) -> String {
    format!(
        "image {}: Debian {}, kernel {}, {} packages, base {} ({})",
        m.template.name,
        m.source.suite,
        m.kernel.release,
        m.base.packages.len(),
        ByteSize(m.base.image.bytes),
        m.base.image.digest.short(),
    )
}

/// `image ls`.
pub fn list(store: &ImageStore, json: bool) -> anyhow::Result<ExitCode> {
    let all = store.list()?;
    let code = match all.iter().all(|l| l.manifest.is_ok()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    };
    if json {
        let images: Vec<_> = all
            .iter()
            .map(|Listed { name, manifest }| match manifest {
                Ok(m) => serde_json::json!({
                    "template": name, "created": m.created, "suite": m.source.suite, "kernel": m.kernel.release,
                    "base": m.base.image.digest, "bytes": bytes(m),
                }),
                Err(e) => serde_json::json!({ "template": name, "error": e.to_string() }),
            })
            .collect();
        out!("{}", serde_json::Value::from(images));
        return Ok(code);
    }
    if all.is_empty() {
        say!("no image yet; build one with: omnirun image build");
        return Ok(code);
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["TEMPLATE", "BUILT", "KERNEL", "BASE", "SIZE"]);
    for Listed { name, manifest } in &all {
        match manifest {
            Ok(m) => table.add_row([
                name.to_string(),
                m.created.clone(),
                m.kernel.release.clone(),
                m.base.image.digest.short().to_owned(),
                ByteSize(bytes(m)).to_string(),
            ]),
            Err(error) => {
                say!("omnirun: {error}");
                let state = match error {
                    ImageError::OlderManifest { .. } => "outdated",
                    _ => "damaged",
                };
                table.add_row([name.to_string(), state.to_owned()])
            }
        };
    }
    out!("{}", table.trim_fmt());
    Ok(code)
}

/// `image inspect`.
pub fn inspect(
    store: &ImageStore,
    name: &TemplateName,
    verify: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let manifest = store.manifest(name)?;
    if verify {
        store.verify(&manifest)?;
    }
    if json {
        out!("{}", serde_json::to_string_pretty(&manifest)?);
        return Ok(ExitCode::SUCCESS);
    }
    let m = &manifest;
    let t = &m.template;
    let env: Vec<String> = t.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut lines = vec![
        ("template", t.name.to_string()),
        ("built", format!("{} by omnirun {}", m.created, m.omnirun)),
        ("user", t.user.clone()),
        ("workdir", t.workdir.clone()),
        ("env", env.join(" ")),
        (
            "keeps all capabilities",
            if t.keep_capabilities { "yes" } else { "no" }.to_owned(),
        ),
        ("packages asked for", m.requested.join(" ")),
        (
            "suite",
            format!("Debian {} from {}", m.source.suite, m.source.mirror),
        ),
        (
            "kernel",
            format!(
                "{} ({} {})",
                m.kernel.release, m.kernel.package.name, m.kernel.package.version
            ),
        ),
        ("modules", m.kernel.module_files.join(" ")),
        ("packages in the base", m.base.packages.len().to_string()),
        ("agent", m.initramfs.agent.to_string()),
    ];
    let blobs = m
        .blobs()
        .map(|(what, blob)| (what, format!("{}  {}", blob.digest, ByteSize(blob.bytes))));
    lines.extend(blobs);
    let tools: Vec<String> = m.tools.iter().map(|(k, v)| format!("{k} {v}")).collect();
    lines.push(("built with", tools.join(", ")));
    if verify {
        lines.push(("files", "all whole".to_owned()));
    }
    for (label, value) in lines {
        out!("{label:<24}{value}");
    }
    Ok(ExitCode::SUCCESS)
}

fn bytes(m: &Manifest) -> u64 {
    m.blobs().iter().map(|(_, blob)| blob.bytes).sum()
}
