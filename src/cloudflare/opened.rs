//! The answer to a lifetime that opens a log, on its way from the object to `run`. Written in the object, read in
//! `run`; pure.

use crate::workflow::{Opened, OpenedRun};

/// Writes the answer to an opening, as JSON: an array of what it is, the generation, the run, and the facts. Not by
/// what derives make of [`Opened`], which is several KB of every Worker.
///
/// # Errors
/// It has none: numbers and strings can always be written.
pub(crate) fn write_opened(opened: &Opened) -> Result<String, serde_json::Error> {
    let (is, generation, run, facts): (_, _, _, &[String]) = match opened {
        Opened::Run(run) if run.ended => (ENDED, run.generation, run.run, &run.facts),
        Opened::Run(run) => (RUNS, run.generation, run.run, &run.facts),
        Opened::Restarting => (RESTARTING, 0, 0, &[]),
        Opened::Over => (OVER, 0, 0, &[]),
    };
    serde_json::to_string(&(is, generation, run, facts))
}

/// Reads what [`write_opened`] wrote.
///
/// # Errors
/// When it is something else.
pub(crate) fn read_opened(json: &str) -> Result<Opened, serde_json::Error> {
    let (is, generation, run, facts): (u8, u64, u32, Vec<String>) = serde_json::from_str(json)?;
    Ok(match is {
        RUNS | ENDED => Opened::Run(OpenedRun {
            generation,
            run,
            ended: is == ENDED,
            facts,
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
        };
        let ended = OpenedRun {
            ended: true,
            ..run.clone()
        };
        let opened = [
            Opened::Run(run),
            Opened::Run(ended),
            Opened::Restarting,
            Opened::Over,
        ];
        for opened in opened {
            let json = write_opened(&opened).unwrap();
            assert_eq!(read_opened(&json).unwrap(), opened, "{json}");
        }
        for other in ["", "null", "[4,0,0,[]]", "[0,0,0]", r#""over""#] {
            assert!(read_opened(other).is_err(), "{other}");
        }
    }
}
