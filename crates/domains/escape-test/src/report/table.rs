//! The report as a table, for people.

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Style};

use super::{Outcome, Report, Row};
use crate::judge::Verdict;

/// Writes it; `colours` says whether a terminal reads it.
#[must_use]
pub fn render(report: &Report, colours: bool) -> String {
    let paint = |text: &str, style: Style| match colours {
        true => text.style(style).to_string(),
        false => text.to_owned(),
    };
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["verdict", "attempt", "bypass", "expected", "seen", "by"]);
    for row in &report.attempts {
        table.add_row([
            paint(row.verdict.as_str(), style(row.verdict)),
            row.id.clone(),
            row.bypass.iter().map(u8::to_string).collect::<Vec<_>>().join(" "),
            row.expected.clone(),
            row.seen.clone(),
            row.by.join(", "),
        ]);
    }
    let mut text = format!("{table}\n");
    for row in report
        .attempts
        .iter()
        .filter(|row| row.verdict != Verdict::Passed)
    {
        text += &format!(
            "\n{} {}\n",
            paint(row.verdict.as_str(), style(row.verdict)),
            details(row)
        );
    }
    if !report.inner_addresses_outside.is_empty() {
        text += &format!(
            "\n{} addresses of a sandbox's own link were seen outside:\n",
            paint("leaked", style(Verdict::Leaked))
        );
        for hit in report.inner_addresses_outside.iter().take(10) {
            text += &format!("  {} on {} of {}\n", hit.protocol, hit.link, hit.place);
        }
    }
    text += "\nWhat no filter of this kind stops:\n";
    for residual in &report.residual {
        text += &format!("  {}: {}\n", residual.name, residual.what);
    }
    let count = |verdict| {
        report
            .attempts
            .iter()
            .filter(|row| row.verdict == verdict)
            .count()
    };
    let (word, colour) = match report.outcome {
        Outcome::Green => ("green", Style::new().green().bold()),
        Outcome::Red => ("red", Style::new().red().bold()),
        Outcome::Inconclusive => ("inconclusive", Style::new().yellow().bold()),
    };
    text += &format!(
        "\n{}: mode {}, {}, {}: {} attempts, {} passed, {} inconclusive, {:.0} s\n",
        paint(word, colour),
        report.mode.as_str(),
        report.driver,
        if report.lab {
            "in a lab"
        } else {
            "in this host's network"
        },
        report.attempts.len(),
        count(Verdict::Passed),
        count(Verdict::Inconclusive),
        report.seconds,
    );
    text
}

fn details(row: &Row) -> String {
    format!("{}: {}\n  {}", row.id, row.what, row.why.join("\n  "))
}

fn style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Passed => Style::new().green(),
        Verdict::Inconclusive => Style::new().yellow(),
        _ => Style::new().red().bold(),
    }
}
