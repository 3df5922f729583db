//! What is run: loadgen's scenarios with sizes.
//!
//! Owns the list. Must never hold a size that one server was tuned to.

use anyhow::bail;

/// One run of loadgen.
#[derive(Debug)]
pub struct Scenario {
    /// Its name in the table.
    pub name: &'static str,
    /// loadgen's arguments.
    pub arguments: &'static str,
    /// Run only when named.
    pub only_named: bool,
}

const SCENARIOS: [Scenario; 12] = [
    short("fanout 10x10000", "--scenario fanout --subscribers 10 --routes 10000"),
    short("fanout 100x5000", "--scenario fanout --subscribers 100 --routes 5000"),
    short("fanout 1000x300", "--scenario fanout --subscribers 1000 --routes 300"),
    short("join 1", "--scenario join --routes 50000 --joiners 1"),
    short("join 20", "--scenario join --routes 5000 --joiners 20"),
    short("mesh", "--scenario mesh"),
    short("herd", "--scenario herd --peers 300"),
    short("churn", "--scenario churn"),
    named("tiny", "--scenario fanout --subscribers 5 --routes 200"),
    named("latency", "--scenario latency"),
    named("idle", "--scenario idle"),
    named("slow", "--scenario slow --stall-s 25"),
];

const fn short(name: &'static str, arguments: &'static str) -> Scenario {
    Scenario { name, arguments, only_named: false }
}

const fn named(name: &'static str, arguments: &'static str) -> Scenario {
    Scenario { name, arguments, only_named: true }
}

/// The scenarios with these names (a name stands for all that begin with it), or all but those that are
/// run only when named.
///
/// # Errors
/// If a name is unknown; the text lists the known ones.
pub fn chosen(names: &[String]) -> anyhow::Result<Vec<Scenario>> {
    for name in names {
        if !SCENARIOS.iter().any(|it| it.name.starts_with(name.as_str())) {
            let known: Vec<String> =
                SCENARIOS.iter().map(|it| format!("  {:16} {}", it.name, it.arguments)).collect();
            bail!("scenarios:\n{}", known.join("\n"));
        }
    }
    let named = |it: &Scenario| names.iter().any(|name| it.name.starts_with(name.as_str()));
    let wanted = |it: &Scenario| if names.is_empty() { !it.only_named } else { named(it) };
    Ok(SCENARIOS.into_iter().filter(wanted).collect())
}
