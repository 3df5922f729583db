//! A strict reader of OpenMetrics text (version 1.0.0): what it takes, Prometheus takes.

use std::collections::{BTreeMap, BTreeSet};

/// Families by name, and all samples by name and labels as they stand.
#[derive(Debug, Default)]
pub struct Metrics {
    pub types: BTreeMap<String, String>,
    pub samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads a whole exposition.
    ///
    /// # Panics
    /// At whatever is wrong with it.
    pub fn read(text: &str) -> Metrics {
        let body = text.strip_suffix("# EOF\n").expect("it ends with EOF");
        let (mut metrics, mut helped) = (Metrics::default(), BTreeSet::new());
        let mut family = String::new();
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("help has words");
                assert!(is_name(name) && !help.trim().is_empty(), "{line}");
                assert!(!help.replace("\\\\", "").replace("\\n", "").contains('\\'), "{line}");
                assert!(helped.insert(name.to_owned()), "help twice: {line}");
                family = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, family, "the type follows the help: {line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(metrics.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                metrics.sample(&family, line);
            }
        }
        let without: Vec<_> = metrics.types.keys().filter(|name| !helped.contains(*name)).collect();
        assert!(without.is_empty(), "no help: {without:?}");
        metrics.check_histograms();
        metrics
    }

    /// The value of a series.
    pub fn value(&self, series: &str) -> f64 {
        let found = self.samples.get(series);
        *found.unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples))
    }

    fn sample(&mut self, family: &str, line: &str) {
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        let name = series.split('{').next().expect("a name");
        let kind = self.types.get(family).unwrap_or_else(|| panic!("before its type: {line}"));
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("out of place: {line}"));
        let fits = match kind.as_str() {
            "counter" => suffix == "_total",
            "gauge" => suffix.is_empty(),
            _ => ["_bucket", "_sum", "_count"].contains(&suffix),
        };
        assert!(fits && is_name(name), "{line}");
        check_labels(&series[name.len()..]);
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(kind == "gauge" || value >= 0.0, "{line}");
        assert!(self.samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }

    /// Buckets only grow, and the last one has all.
    fn check_histograms(&self) {
        for family in self.types.iter().filter(|(_, kind)| *kind == "histogram").map(|(it, _)| it) {
            let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for (series, count) in &self.samples {
                let Some(labels) = series.strip_prefix(&format!("{family}_bucket")) else {
                    continue;
                };
                let (before, rest) = labels.split_once("le=\"").expect("a bucket has its bound");
                let (bound, behind) = rest.split_once('"').expect("it ends");
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
                buckets.entry(format!("{before}{behind}")).or_default().push((bound, *count));
            }
            for (labels, mut buckets) in buckets {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{family} {labels}");
                let (bound, all) = buckets.last().copied().expect("there is one");
                let labels = labels.replace(",}", "}").replace("{,", "{").replace("{}", "");
                assert!(bound.is_infinite(), "{family} {labels}");
                assert_eq!(self.value(&format!("{family}_count{labels}")), all);
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with("metalbond_")
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
}

fn check_labels(labels: &str) {
    if labels.is_empty() {
        return;
    }
    let inner = labels.strip_prefix('{').and_then(|it| it.strip_suffix('}')).expect("braces");
    let mut names = BTreeSet::new();
    let mut rest = inner;
    while !rest.is_empty() {
        let (name, behind) = rest.split_once("=\"").expect("a label has a value");
        assert!(name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'), "{labels}");
        assert!(names.insert(name), "{labels}");
        let end = behind.find('"').expect("a value ends");
        assert!(!behind[..end].contains(['\\', '\n']), "nothing of ours needs escapes: {labels}");
        rest = behind[end + 1..].strip_prefix(',').unwrap_or(&behind[end + 1..]);
    }
}
