//! Measures how cost grows: with subscribers, routes, VNIs, cores and peers. Draws it, and judges it by goals.
//!
//! Owns the command line and the order of the runs. Must never let runs of one place follow each other where
//! they can be interleaved: the machine changes meanwhile.

mod catalogue;
mod curve;
mod heap;
mod in_process;
mod plot;
mod process;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use argh::FromArgs;
use metalbond_uring_compare::binaries::{self, Binaries};
use serde_json::Value;

use crate::catalogue::Size;
use crate::curve::{Curve, Measured};

/// Measures how cost grows, draws a curve for each kind, and states for each goal whether it is met.
#[derive(FromArgs)]
struct Flags {
    /// folder with release builds of metalbond-uring and loadgen; without it they are built
    #[argh(option)]
    binaries: Option<PathBuf>,
    /// how often each is run, default 5
    #[argh(option, default = "5")]
    rounds: u32,
    /// curves whose names begin so (default: all); may be repeated, "list" prints them
    #[argh(option)]
    only: Vec<String>,
    /// folder for the drawings and curves.json, default docs/curves of the project (with --quick: target/curves)
    #[argh(option)]
    out: Option<PathBuf>,
    /// few small points and one round, just to see that everything runs: its figures mean nothing
    #[argh(switch)]
    quick: bool,
}

fn main() -> ExitCode {
    run(&argh::from_env()).unwrap_or_else(|error| {
        eprintln!("curves: {error:#}");
        ExitCode::FAILURE
    })
}

/// A failure if any run failed.
fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    ensure!(flags.rounds > 0, "--rounds must be at least 1");
    let size = if flags.quick { Size::Quick } else { Size::Full };
    let rounds = if flags.quick { 1 } else { flags.rounds };
    let curves = chosen(catalogue::curves(size), &flags.only)?;
    let out = flags.out.clone().unwrap_or_else(|| {
        binaries::project().join(if flags.quick { "target/curves" } else { "docs/curves" })
    });
    // Before all the work, not after it.
    std::fs::create_dir_all(&out).with_context(|| format!("--out {}", out.display()))?;
    let mut all = known(&out.join("curves.json"))?;
    let binaries = Binaries::at(flags.binaries.as_deref())?;
    let measured = measure(&curves, &binaries, rounds);
    for (curve, measured) in curves.iter().zip(&measured) {
        println!("{}", report::values(curve, measured, rounds));
        plot::draw(curve, measured, &out.join(format!("{}.svg", curve.name)))?;
        all[curve.name] = report::json(curve, measured, rounds, flags.quick);
    }
    let path = out.join("curves.json");
    std::fs::write(&path, format!("{all:#}\n")).with_context(|| path.display().to_string())?;
    let pairs: Vec<(&Curve, &Measured)> = curves.iter().zip(&measured).collect();
    print!("{}", report::goals(&pairs));
    if flags.quick {
        println!("These runs were quick ones: the figures mean nothing.");
    } else {
        println!("Medians of {rounds} interleaved rounds, lowest and highest in brackets.");
    }
    let is_complete = measured.iter().all(|measured| measured.failures.is_empty());
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The curves whose names begin with one of these, or all.
fn chosen(curves: Vec<Curve>, only: &[String]) -> anyhow::Result<Vec<Curve>> {
    let begins = |curve: &Curve, name: &String| curve.name.starts_with(name.as_str());
    if let Some(name) = only.iter().find(|name| !curves.iter().any(|curve| begins(curve, name))) {
        let names: Vec<&str> = curves.iter().map(|curve| curve.name).collect();
        bail!("--only {name}: the curves are {}", names.join(", "));
    }
    let wanted = |curve: &Curve| only.is_empty() || only.iter().any(|name| begins(curve, name));
    Ok(curves.into_iter().filter(wanted).collect())
}

/// What an earlier run wrote, so that one with --only replaces its own curves alone.
fn known(path: &Path) -> anyhow::Result<Value> {
    if !path.exists() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let all: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    ensure!(all.is_object(), "{} is none of ours", path.display());
    Ok(all)
}

/// Runs everything `rounds` times; what fails counts for nothing but its failure.
fn measure(curves: &[Curve], binaries: &Binaries, rounds: u32) -> Vec<Measured> {
    let mut measured: Vec<Measured> = curves.iter().map(|_| Measured::default()).collect();
    for round in 1..=rounds {
        for (curve, measured) in curves.iter().zip(&mut measured) {
            for _ in 0..curve.runs_per_round {
                for job in &curve.jobs {
                    eprintln!("round {round}/{rounds}: {}: {}", curve.name, job.name);
                    match (job.measure)(binaries) {
                        Ok(samples) => measured.take(samples),
                        Err(error) => {
                            eprintln!("  FAILED: {error:#}");
                            measured.failures.push((job.name.clone(), format!("{error:#}")));
                        }
                    }
                }
            }
        }
    }
    measured
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_chosen_by_how_their_names_begin() {
        let names = |only: &[&str]| -> anyhow::Result<Vec<&str>> {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            let curves = chosen(catalogue::curves(Size::Quick), &only)?;
            Ok(curves.iter().map(|curve| curve.name).collect())
        };
        assert_eq!(names(&[]).unwrap().len(), catalogue::curves(Size::Full).len());
        assert_eq!(names(&["idle", "memory"]).unwrap(), ["memory", "memory-vnis", "idle"]);
        let error = names(&["idle", "nonsense"]).unwrap_err().to_string();
        assert!(error.contains("nonsense") && error.contains("take-in"), "{error}");
    }
}
