//! `/template.conf`: what the template's recipe says about processes.
//!
//! ```text
//!   user NAME
//!   workdir PATH
//!   keep_capabilities 0 or 1
//!   env NAME=VALUE
//! ```
//!
//! A line each; unknown keys are for later releases and are skipped.

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) user: String,
    pub(crate) workdir: String,
    pub(crate) keep_capabilities: bool,
    pub(crate) env: Vec<(String, String)>,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            user: "root".into(),
            workdir: "/workspace".into(),
            keep_capabilities: false,
            env: Vec::new(),
        }
    }
}

impl Template {
    pub(crate) fn parse(text: &str) -> Self {
        let mut template = Self::default();
        // Not `lines`: a value may end with a carriage return.
        for line in text.split('\n') {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "user" if !value.is_empty() => template.user = value.to_owned(),
                "workdir" if value.starts_with('/') => template.workdir = value.to_owned(),
                "keep_capabilities" => template.keep_capabilities = value == "1",
                "env" => {
                    if let Some((name, value)) = value.split_once('=') {
                        template.env.push((name.to_owned(), value.to_owned()));
                    }
                }
                _ => {}
            }
        }
        template
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_an_image_build_writes_and_skips_the_rest() {
        let text =
            "user agent\nworkdir /work dir\nkeep_capabilities 1\nfuture x\nenv LANG=C.UTF-8\nenv A=b=c d\n";
        let template = Template::parse(text);
        assert_eq!(template.user, "agent");
        assert_eq!(template.workdir, "/work dir");
        assert!(template.keep_capabilities);
        assert_eq!(
            template.env,
            [("LANG".into(), "C.UTF-8".into()), ("A".into(), "b=c d".into())]
        );
        assert_eq!(Template::parse(""), Template::default());
        assert_eq!(Template::parse("env A=x\r\n").env, [("A".into(), "x\r".into())]);
    }
}
