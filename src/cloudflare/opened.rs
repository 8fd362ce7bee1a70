//! The answer to a lifetime that opens a log, on its way from the object to `run`. Written in the object, read in
//! `run`; pure.

use crate::workflow::{Opened, OpenedRun, Rivals};

/// Writes the answer to an opening, as JSON: an array of what it is, the generation, the run, the facts, and
/// the [`Rivals`] as another array, or `null`. Not by
/// what derives make of [`Opened`], which is several KB of every Worker.
///
/// # Errors
/// It has none: numbers and strings can always be written.
pub(crate) fn write_opened(opened: &Opened) -> Result<String, serde_json::Error> {
    let is = match opened {
        Opened::Run(run) if run.ended => ENDED,
        Opened::Run(_) => RUNS,
        Opened::Restarting => RESTARTING,
        Opened::Over => OVER,
    };
    let (generation, run, facts, rivals): (_, _, &[String], _) = match opened {
        Opened::Run(run) => (run.generation, run.run, &run.facts, run.rivals),
        _ => (0, 0, &[], None),
    };
    let rivals = rivals.map(|rivals| (rivals.now, rivals.opened, rivals.begun));
    serde_json::to_string(&(is, generation, run, facts, rivals))
}

/// Reads what [`write_opened`] wrote.
///
/// # Errors
/// When it is something else.
pub(crate) fn read_opened(json: &str) -> Result<Opened, serde_json::Error> {
    type Read = (u8, u64, u32, Vec<String>, Option<(u64, u64, Option<u64>)>);
    let (is, generation, run, facts, rivals): Read = serde_json::from_str(json)?;
    let rivals = rivals.map(|(now, opened, begun)| Rivals { now, opened, begun });
    Ok(match is {
        RUNS | ENDED => Opened::Run(OpenedRun {
            generation,
            run,
            ended: is == ENDED,
            facts,
            rivals,
        }),
        RESTARTING => Opened::Restarting,
        OVER => Opened::Over,
        _ => return Err(serde::de::Error::custom("an unknown answer to an opening")),
    })
}

const RUNS: u8 = 0;
const ENDED: u8 = 1;
const RESTARTING: u8 = 2;
const OVER: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_an_opening_are_read_as_they_are_written() {
        let run = OpenedRun {
            generation: 1_795_444_674_907,
            run: 3,
            ended: false,
            facts: vec!["größe-1:started".to_owned(), String::new()],
            rivals: None,
        };
        let rivals = Rivals {
            now: 1_795_444_674_907,
            opened: 12,
            begun: Some(400),
        };
        let ended = OpenedRun {
            ended: true,
            rivals: Some(rivals),
            ..run.clone()
        };
        let opened = [
            Opened::Run(run),
            Opened::Run(ended),
            Opened::Restarting,
            Opened::Over,
        ];
        for opened in &opened {
            let json = write_opened(opened).unwrap();
            assert_eq!(read_opened(&json).unwrap(), *opened, "{json}");
        }
        // A change of these needs an object and a Worker that refuse each other's: see tests/skew.rs.
        let json = opened
            .each_ref()
            .map(|opened| write_opened(opened).unwrap());
        assert_eq!(
            json[1..],
            [
                r#"[1,1795444674907,3,["größe-1:started",""],[1795444674907,12,400]]"#,
                "[2,0,0,[],null]",
                "[3,0,0,[],null]",
            ]
        );
        for other in ["", "null", "[4,0,0,[],null]", "[0,0,0]", r#""over""#] {
            assert!(read_opened(other).is_err(), "{other}");
        }
    }
}
