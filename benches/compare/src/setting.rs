//! Under which conditions a scenario is run: the link, and how receivers read.
//!
//! Owns their words and what they mean to loadgen. Must never differ from one server to the next.

use std::fmt;

use metalbond_uring_compare::link::LinkKind;

/// How loadgen's peers read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receivers {
    /// They put frames together, and say so.
    Reassemble,
    /// They take each read for whole frames; a read that ends inside one is a failure.
    Aligned,
}

impl Receivers {
    /// Its word on the command line and in the table.
    pub fn name(self) -> &'static str {
        match self {
            Receivers::Reassemble => "reassemble",
            Receivers::Aligned => "aligned",
        }
    }

    /// The ones with this name.
    ///
    /// # Errors
    /// What it may be.
    pub fn named(name: &str) -> Result<Receivers, String> {
        [Receivers::Reassemble, Receivers::Aligned]
            .into_iter()
            .find(|it| it.name() == name)
            .ok_or_else(|| "expected reassemble or aligned".to_owned())
    }

    /// What loadgen is told. (Not --legacy: those peers also give up at 65,535 unread bytes, which is for
    /// pacing to avoid; nobody is paced here.)
    pub fn loadgen_flag(self) -> Option<&'static str> {
        (self == Receivers::Aligned).then_some("--aligned")
    }
}

/// A link and receivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The link.
    pub link: LinkKind,
    /// The receivers.
    pub receivers: Receivers,
}

impl Setting {
    /// Every link with all receivers, each once, in the order given; the defaults where nothing is.
    pub fn all(links: &[LinkKind], receivers: &[Receivers]) -> Vec<Setting> {
        let links = if links.is_empty() { &[LinkKind::Loopback] } else { links };
        let receivers = if receivers.is_empty() { &[Receivers::Reassemble] } else { receivers };
        let mut all = Vec::new();
        for &link in links {
            for &receivers in receivers {
                let setting = Setting { link, receivers };
                if !all.contains(&setting) {
                    all.push(setting);
                }
            }
        }
        all
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, {}", self.link.name(), self.receivers.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once_and_in_order() {
        let names = |links: &[LinkKind], receivers: &[Receivers]| -> Vec<String> {
            Setting::all(links, receivers).iter().map(Setting::to_string).collect()
        };
        assert_eq!(names(&[], &[]), ["loopback, reassemble"]);
        let links = [LinkKind::Veth, LinkKind::Loopback, LinkKind::Veth];
        assert_eq!(names(&links, &[]), ["veth, reassemble", "loopback, reassemble"]);
        let both = [Receivers::Reassemble, Receivers::Aligned];
        assert_eq!(names(&[LinkKind::Veth], &both), ["veth, reassemble", "veth, aligned"]);
    }

    #[test]
    fn names() {
        for receivers in [Receivers::Reassemble, Receivers::Aligned] {
            assert_eq!(Receivers::named(receivers.name()), Ok(receivers));
        }
        assert_eq!(Receivers::named("legacy"), Err("expected reassemble or aligned".to_owned()));
    }
}
