//! `ssetarget watch`.

use std::env;
use std::ffi::OsString;
use std::future::{Future, pending};
use std::io::{self, ErrorKind, IsTerminal, stderr, stdout};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use futures_util::FutureExt;
use ssetarget::client::{ClientError, Outcome, ReceivedEvent, RunClient, RunWatch, Start, Update};
use ssetarget::workflow::{RunEstimate, RunSnapshot, RunView};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::args::{Answer, Progress, Target, Watch};
use crate::exit::Exit;
use crate::plain::Lines;
use crate::screen::{Output, Screen};
use crate::signals::Signals;
use crate::text::{Abilities, Line, Look, clean, countdown, duration};
use crate::tree::{Finished, Moment, room, root, tree};
use crate::{complain, json};

/// The interval between two drawings of the tree.
const TICK: Duration = Duration::from_millis(100);
/// The most events that are taken at once, before anything else has its turn.
const AT_ONCE: usize = 500;
/// How long the client asks how a run ended, if its end is before the position.
const ASK_FOR_THE_END: Duration = Duration::from_secs(30);

/// When a run that had just begun is asked again how long it is expected to take: its index is told of it meanwhile.
const ASK_FOR_THE_ESTIMATE: Duration = Duration::from_secs(3);

/// Why watching stops before the end.
enum Stop {
    Error(ClientError),
    Output(io::Error),
    Signal(Exit),
    Timeout,
    /// The log has ended, and it was not found out in time how the run did.
    EndUnknown,
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Error(error)
    }
}

/// Returns a client of the run that the command line names.
pub(crate) fn client(target: &Target) -> Result<RunClient, ClientError> {
    let client = RunClient::new(&target.url)?;
    // A link's token takes precedence over the environment's.
    let from_environment = || match client.has_token() {
        true => None,
        false => env::var("SSETARGET_TOKEN")
            .ok()
            .filter(|token| !token.is_empty()),
    };
    match target.token.clone().or_else(from_environment) {
        Some(token) => client.token(&token),
        None => Ok(client),
    }
}

/// Sends an event that a run waits for.
pub(crate) async fn send(client: &RunClient, answer: &Answer) -> Result<(), ClientError> {
    client
        .send(&answer.event_type, answer.payload.as_ref())
        .await?;
    complain(&format!("sent {}", answer.event_type));
    Ok(())
}

pub(crate) async fn watch(args: Watch, signals: &mut Signals) -> Exit {
    let progress = match progress(&args) {
        Ok(progress) => progress,
        Err(reason) => {
            complain(&reason);
            return Exit::Usage;
        }
    };
    let client = match client(&args.target) {
        Ok(client) => client,
        Err(error) => {
            complain(&error.to_string());
            return Exit::of_error(&error);
        }
    };
    let client = match args.retry_for {
        Some(time) => client.connect_for(time).retry_for(time),
        None => client,
    };
    let mut show = Show::new(progress, args.json, client.id());
    let watched = show.watch(&args, &client, signals).await;
    let restored = show.finish();
    match watched {
        Ok(exit) => match restored {
            Err(error) => output_failed(&error),
            Ok(()) => exit,
        },
        Err(Stop::Output(error)) => output_failed(&error),
        Err(Stop::Error(error)) => {
            complain(&error.to_string());
            Exit::of_error(&error)
        }
        Err(Stop::Signal(exit)) => {
            let url = client.page_url();
            complain(&format!(
                "detached; the run goes on. To watch it again: ssetarget watch {url}"
            ));
            exit
        }
        Err(Stop::Timeout) => {
            let time = args.timeout.unwrap_or_default();
            complain(&format!(
                "gave up after {}; the run goes on",
                duration(time)
            ));
            Exit::GaveUp
        }
        Err(Stop::EndUnknown) => {
            complain(
                "gave up: the log has ended, and how the run did is before the position and was not found out in time; \
                 read all of it: --from beginning",
            );
            Exit::GaveUp
        }
    }
}

fn output_failed(error: &io::Error) -> Exit {
    if error.kind() == ErrorKind::BrokenPipe {
        return Exit::Pipe;
    }
    complain(&format!("the output cannot be written: {error}"));
    Exit::GaveUp
}

/// Asks how a run did whose end is before the position where the client began.
async fn ask_for_the_end(client: &RunClient, within: Duration) -> Result<RunView, Stop> {
    match tokio::time::timeout(within, client.ended()).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Err(Stop::EndUnknown),
    }
}

/// Returns whether a run had just begun, so that its index may not have been told of it.
fn is_young(snapshot: &RunSnapshot) -> bool {
    let age = snapshot.started.map(|started| started.elapsed());
    !snapshot.state.has_ended()
        && age.is_none_or(|age| age.is_ok_and(|age| age < 2 * ASK_FOR_THE_ESTIMATE))
}

/// Decides how progress is shown.
fn progress(args: &Watch) -> Result<Progress, String> {
    let mut progress = args.progress;
    if progress == Progress::Auto
        && let Some(name) = env::var("SSETARGET_PROGRESS")
            .ok()
            .filter(|name| !name.is_empty())
    {
        let parsed = Progress::from_str(&name, false);
        progress =
            parsed.map_err(|_| "SSETARGET_PROGRESS is not auto, tty, plain or none".to_owned())?;
    }
    Ok(match progress {
        Progress::Auto if args.json => Progress::None,
        Progress::Auto if stdout().is_terminal() && !is_dumb() => Progress::Tty,
        Progress::Auto => Progress::Plain,
        other => other,
    })
}

fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty())
}

fn abilities(is_terminal: bool) -> Abilities {
    let is_forced =
        env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
    let locale: Option<OsString> = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| env::var_os(name).filter(|value| !value.is_empty()));
    let locale = locale.map(|locale| locale.to_string_lossy().to_lowercase());
    let unicode = match locale {
        Some(locale) => locale.contains("utf-8") || locale.contains("utf8"),
        // On other systems the environment does not name the locale.
        None => cfg!(any(windows, target_os = "macos")),
    };
    Abilities {
        color: !is_set("NO_COLOR") && (is_forced || is_terminal && !is_dumb()),
        unicode,
    }
}

/// The view of a run for people.
struct Show {
    progress: Progress,
    json: bool,
    name: String,
    abilities: Abilities,
    /// The destination of progress: the tree or the lines.
    screen: Option<Screen>,
    plain: Option<Output>,
    lines: Lines,
    finished: Finished,
    /// Lines to be drawn above the tree.
    above: Vec<Line>,
    /// Lines to be written.
    text: Vec<u8>,
    /// Events to be written.
    events: Vec<u8>,
    ticks: usize,
    others: usize,
    /// The trouble with the connection, and the time of the next try.
    trouble: Option<(String, SystemTime)>,
    /// The last line of the tree, which stays.
    last: Option<Line>,
    /// How long the run is expected to take.
    estimate: Option<RunEstimate>,
}

impl Show {
    fn new(progress: Progress, json: bool, name: &str) -> Self {
        let (output, is_terminal) = match json {
            true => (Output::Stderr(stderr()), stderr().is_terminal()),
            false => (Output::Stdout(stdout()), stdout().is_terminal()),
        };
        let abilities = abilities(is_terminal);
        let (screen, plain) = match progress {
            Progress::Tty => (Some(Screen::new(output, abilities)), None),
            Progress::Plain => (None, Some(output)),
            _ => (None, None),
        };
        Self {
            progress,
            json,
            name: name.to_owned(),
            abilities,
            screen,
            plain,
            lines: Lines::default(),
            finished: Finished::default(),
            above: Vec::new(),
            text: Vec::new(),
            events: Vec::new(),
            ticks: 0,
            others: 0,
            trouble: None,
            last: None,
            estimate: None,
        }
    }

    async fn watch(
        &mut self,
        args: &Watch,
        client: &RunClient,
        signals: &mut Signals,
    ) -> Result<Exit, Stop> {
        let timeout = async {
            match args.timeout {
                Some(time) => sleep(time).await,
                None => pending().await,
            }
        };
        tokio::pin!(timeout);
        if self.progress != Progress::None {
            complain(&format!("watching {}", client.page_url()));
        }
        if args.open {
            self.open(args, client);
        }
        let opening = async {
            for answer in &args.send {
                send(client, answer).await?;
            }
            let start = match (&args.from, args.since) {
                (Some(start), _) => start.clone(),
                (None, Some(time)) => Start::Since(time),
                (None, None) => Start::Default,
            };
            // A reader of events gets all of them; a tree can begin with the run as it stands.
            match start == Start::Default && !self.json && self.progress != Progress::Plain {
                true => client.watch().await,
                false => Ok(client.watch_from(start)),
            }
        };
        let mut run = tokio::select! {
            exit = signals.next() => return Err(Stop::Signal(exit)),
            () = &mut timeout => return Err(Stop::Timeout),
            run = opening => run?,
        };

        self.estimate = run
            .snapshot()
            .and_then(|snapshot| snapshot.estimate.clone());
        let asks_again = self.screen.is_some() && run.snapshot().is_some_and(is_young);
        let asked = async {
            sleep(ASK_FOR_THE_ESTIMATE).await;
            client.snapshot().await.ok().flatten()?.estimate
        };
        tokio::pin!(asked);
        let mut is_asking = asks_again && self.estimate.is_none();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                exit = signals.next() => return Err(Stop::Signal(exit)),
                () = &mut timeout => return Err(Stop::Timeout),
                estimate = &mut asked, if is_asking => {
                    (self.estimate, is_asking) = (estimate, false);
                }
                _ = ticks.tick(), if self.screen.is_some() => self.draw(&run)?,
                update = run.next() => {
                    let mut update = update;
                    let mut taken = 0;
                    while let Some(next) = update {
                        self.take(&next?);
                        taken += 1;
                        if taken == AT_ONCE {
                            break;
                        }
                        update = match run.next().now_or_never() {
                            Some(update) => update,
                            None => {
                                self.write()?;
                                break;
                            }
                        };
                        if update.is_none() {
                            return self.end(run, client, signals, timeout).await;
                        }
                    }
                    if taken == 0 {
                        return self.end(run, client, signals, timeout).await;
                    }
                    self.write()?;
                }
            }
        }
    }

    /// Ends the output after the last event.
    async fn end(
        &mut self,
        run: RunWatch,
        client: &RunClient,
        signals: &mut Signals,
        timeout: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Exit, Stop> {
        self.write()?;
        self.trouble = None;
        let mut finished = std::mem::take(&mut self.finished);
        let above = finished.lines(run.view(), self.moment(true));
        self.above.extend(above);
        let mut outcome = run.outcome();
        let mut view = run.view().clone();
        if outcome.is_none() {
            // The end may be before the position where the client began.
            view = tokio::select! {
                exit = signals.next() => return Err(Stop::Signal(exit)),
                () = timeout => return Err(Stop::EndUnknown),
                ended = ask_for_the_end(client, ASK_FOR_THE_END) => ended?,
            };
            outcome = Outcome::of(&view);
        }
        if outcome.is_none() && self.plain.is_some() {
            complain("the log has ended");
        }
        self.last = Some(root(&view, self.moment(true)));
        Ok(Exit::of(outcome))
    }

    /// Restores the terminal.
    fn finish(&mut self) -> io::Result<()> {
        self.write()?;
        let Some(screen) = &mut self.screen else {
            return Ok(());
        };
        let mut above = std::mem::take(&mut self.above);
        above.extend(self.last.take());
        screen.finish(&above)
    }

    fn open(&self, args: &Watch, client: &RunClient) {
        let mut url = client.page_url();
        // The page gets a link's token, as it does when the link is opened.
        if let Some((_, fragment)) = args.target.url.split_once('#') {
            url.push('#');
            url.push_str(fragment);
        }
        if let Err(error) = open::that_detached(&url) {
            complain(&format!("the browser cannot be started: {error}"));
        }
    }

    fn take(&mut self, update: &Update) {
        if let Some(event) = update.event() {
            self.take_event(update, event);
        }
        match update {
            Update::Connected => {
                let was_lost = self.trouble.take().is_some();
                if was_lost && self.screen.is_none() {
                    complain("connected again");
                }
            }
            Update::Disconnected { reason, retry_in } => {
                if self.screen.is_none() {
                    let time = duration(*retry_in);
                    complain(&format!(
                        "the connection is lost, trying again in {time}: {reason}"
                    ));
                }
                self.trouble = Some((clean(reason), SystemTime::now() + *retry_in));
            }
            Update::Expired(_) if self.screen.is_none() => {
                complain("the permission has expired");
            }
            _ => {}
        }
    }

    fn take_event(&mut self, update: &Update, event: &ReceivedEvent) {
        if self.json {
            self.events.extend_from_slice(json::line(event).as_bytes());
        }
        if self.plain.is_some() {
            if let Some(line) = self.lines.line(event, SystemTime::now()) {
                let (text, _) = line.render(usize::MAX, self.abilities);
                self.text.extend_from_slice(text.as_bytes());
                self.text.push(b'\n');
            }
        } else if self.screen.is_some() {
            match update {
                Update::Restarted(_) | Update::Reset(_) => {
                    self.finished.clear();
                    let word = match update {
                        Update::Restarted(_) => "the run was restarted",
                        _ => "what follows begins with the oldest event that is kept",
                    };
                    self.above.push(Line::new().with(Look::Yellow, word));
                }
                _ if event.step().is_none() && event.platform().is_none() => {
                    self.others += 1;
                    self.above.extend(self.lines.line(event, SystemTime::now()));
                }
                _ => {}
            }
        }
    }

    /// Writes what is pending.
    fn write(&mut self) -> io::Result<()> {
        if let Some(plain) = &mut self.plain
            && !self.text.is_empty()
        {
            plain.write(&std::mem::take(&mut self.text))?;
        }
        if !self.events.is_empty() {
            Output::Stdout(stdout()).write(&std::mem::take(&mut self.events))?;
        }
        Ok(())
    }

    fn draw(&mut self, run: &RunWatch) -> io::Result<()> {
        self.ticks += 1;
        let trouble = self.trouble.as_ref().map(|(reason, again)| {
            let left = again.duration_since(SystemTime::now()).unwrap_or_default();
            format!(
                "the connection is lost, trying again in {}: {reason}",
                countdown(left)
            )
        });
        let mut finished = std::mem::take(&mut self.finished);
        let above = finished.lines(run.view(), self.moment(false));
        self.finished = finished;
        let (_, rows) = Screen::size();
        let mut moment = self.moment(false);
        moment.trouble = trouble.as_deref();
        let lines = tree(run.view(), moment, room(rows));
        self.above.extend(above);
        // This line stays when people stop watching.
        self.last = lines.first().cloned();
        let above = std::mem::take(&mut self.above);
        match &mut self.screen {
            Some(screen) => screen.draw(&above, &lines),
            None => Ok(()),
        }
    }

    fn moment(&self, has_ended: bool) -> Moment<'_> {
        Moment {
            name: &self.name,
            now: SystemTime::now(),
            tick: self.ticks,
            abilities: self.abilities,
            trouble: None,
            others: self.others,
            has_ended,
            estimate: self.estimate.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_end_that_is_not_found_out_in_time_is_no_good_end() {
        // It takes connections and answers none.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/o-1", server.local_addr().unwrap());
        let client = RunClient::new(&url).unwrap();
        let asked = ask_for_the_end(&client, Duration::from_millis(100)).await;
        assert!(matches!(asked, Err(Stop::EndUnknown)));
    }
}
