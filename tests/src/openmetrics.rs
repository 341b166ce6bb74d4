//! Decides whether a text is an OpenMetrics exposition, and reads its samples. Pure. Written from the specification, not from the
//! sidecar's code.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};

/// The samples: by name and labels, as they stand in the text.
pub type Samples = BTreeMap<String, f64>;

/// Reads an exposition.
///
/// # Errors
/// It breaks a rule of OpenMetrics 1.0; the text names the line.
pub fn parse(text: &str) -> anyhow::Result<Samples> {
    let body = text.strip_suffix("# EOF\n").context("the last line is not `# EOF`")?;
    let mut reader = Reader::default();
    for line in body.lines() {
        reader.line(line).with_context(|| format!("line `{line}`"))?;
    }
    reader.check_histograms()?;
    Ok(reader.samples)
}

/// The sum of the samples of that name whose labels contain every given `name="value"`; none is 0.
#[must_use]
pub fn sum(samples: &Samples, name: &str, labels: &[&str]) -> f64 {
    let of = |series: &str| series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label));
    samples.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
}

#[derive(Default)]
struct Reader {
    /// The family whose lines these are, and its type.
    family: Option<(String, String)>,
    seen: BTreeSet<String>,
    samples: Samples,
    /// For each histogram series the buckets' counts in order.
    buckets: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Reader {
    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        let Some(comment) = line.strip_prefix("# ") else { return self.sample(line) };
        let mut words = comment.splitn(3, ' ');
        let (Some(word), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
            bail!("a descriptor has three parts");
        };
        if self.family.as_ref().is_none_or(|(family, _)| family != name) {
            ensure!(is_name(name), "`{name}` is no name");
            ensure!(self.seen.insert(name.to_owned()), "the family comes twice, or not in one piece");
            self.family = Some((name.to_owned(), "unknown".to_owned()));
        }
        match (word, &mut self.family) {
            ("TYPE", Some((_, kind))) => rest.clone_into(kind),
            ("UNIT", _) => ensure!(name.ends_with(&format!("_{rest}")), "the name does not end with its unit"),
            ("HELP", _) => {}
            _ => bail!("no descriptor of OpenMetrics"),
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> anyhow::Result<()> {
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let value: f64 = value.parse().context("the value is no number")?;
        let name = series.split('{').next().unwrap_or_default();
        let labels = read_labels(&series[name.len()..])?;
        let (family, kind) = self.family.as_ref().context("a sample before its family")?;
        let suffix = name.strip_prefix(family.as_str()).context("a sample of another family")?;
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total", "_created"],
            "histogram" => &["_bucket", "_sum", "_count", "_created"],
            "info" => &["_info"],
            "gauge" | "unknown" => &[""],
            other => bail!("type `{other}` is not used here"),
        };
        ensure!(suffixes.contains(&suffix), "suffix `{suffix}` in a {kind}");
        ensure!(kind != "counter" || (value.is_finite() && value >= 0.0), "a counter is never below 0");
        if suffix == "_bucket" {
            let le = labels.get("le").context("a bucket without `le`")?.parse().context("`le`")?;
            let others: Vec<_> = labels.iter().filter(|(name, _)| *name != "le").collect();
            self.buckets.entry(format!("{family}{others:?}")).or_default().push((le, value));
        }
        ensure!(self.samples.insert(series.to_owned(), value).is_none(), "the series comes twice");
        Ok(())
    }

    fn check_histograms(&self) -> anyhow::Result<()> {
        for (series, buckets) in &self.buckets {
            let rises = buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
            ensure!(
                rises && buckets.last().is_some_and(|last| last.0.is_infinite()),
                "histogram {series}: {buckets:?}"
            );
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// Reads `{name="value",…}`, or nothing.
fn read_labels(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    if text.is_empty() {
        return Ok(labels);
    }
    let mut rest = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).context("labels without braces")?;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").context("a label without a value")?;
        ensure!(is_name(name), "`{name}` is no label name");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().context("a label value without its end")? {
                (at, '"') => break at + 1,
                (_, '\\') => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    other => bail!("escape {other:?}"),
                },
                (_, c) => value.push(c),
            }
        };
        ensure!(labels.insert(name.to_owned(), value).is_none(), "label `{name}` comes twice");
        rest = match &after[end..] {
            "" => "",
            more => more.strip_prefix(',').context("no comma between labels")?,
        };
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a What.\n# TYPE a counter\na_total{t=\"x\\\"y\",u=\"1\"} 3\na_total 4\n# TYPE b_seconds histogram\n\
                        # UNIT b_seconds seconds\nb_seconds_bucket{le=\"1\"} 1\nb_seconds_bucket{le=\"+Inf\"} 2\nb_seconds_sum 7.5\n\
                        b_seconds_count 2\n# TYPE c gauge\nc -1\n# EOF\n";

    #[test]
    fn reads_what_is_right() {
        let samples = parse(GOOD).unwrap();
        assert_eq!(sum(&samples, "a_total", &[]), 7.0);
        assert_eq!(sum(&samples, "a_total", &["u=\"1\""]), 3.0);
        assert_eq!(samples["c"], -1.0);
    }

    #[test]
    fn refuses_what_is_wrong() {
        for (right, wrong) in [
            ("# EOF\n", ""),
            ("a_total 4", "a_total{t=\"x\\\"y\",u=\"1\"} 4"),
            ("a_total 4", "a 4"),
            ("a_total 4", "a_total -4"),
            ("a_total 4", "a_total four"),
            ("c -1", "d -1"),
            ("# TYPE c gauge", "# TYPE a gauge"),
            ("le=\"+Inf\"} 2", "le=\"+Inf\"} 0"),
            ("b_seconds_bucket{le=\"+Inf\"} 2\n", ""),
            ("u=\"1\"", "u=1"),
            ("# UNIT b_seconds seconds", "# UNIT b_seconds bytes"),
        ] {
            assert!(GOOD.contains(right));
            assert!(parse(&GOOD.replacen(right, wrong, 1)).is_err(), "{wrong}");
        }
    }
}
