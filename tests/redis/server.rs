//! Redis servers of the tests, each on a free port with its files in a temporary folder.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Returns the path of a program.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// A running server, which ends with the test.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) folder: PathBuf,
    options: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts a server that writes everything to its file before it answers, so that it loses
    /// nothing.
    pub(crate) fn start() -> Self {
        Self::with(&["--appendonly yes", "--appendfsync always"])
    }

    /// Starts a server that forgets everything when it is killed.
    pub(crate) fn forgetful() -> Self {
        Self::with(&["--appendonly no"])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        Self::on(free_port(), options)
    }

    pub(crate) fn on(port: u16, options: &[&str]) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ssetarget-redis-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut server = Self {
            port,
            folder,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            child: None,
        };
        server.run();
        server
    }

    /// Starts the process; after a kill, with the data in its files.
    pub(crate) fn run(&mut self) {
        let program = find("redis-server")
            .unwrap_or_else(|| panic!("there is no `redis-server` on the PATH"));
        let options = self.options.iter().flat_map(|option| option.split(' '));
        let child = Command::new(program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--loglevel", "warning"])
            .args(options)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
        self.wait();
    }

    fn wait(&self) {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(60) {
            let Ok(mut connection) = TcpStream::connect(("127.0.0.1", self.port)) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            // A server that is just ending may cut the connection off, and so may a connection to
            // itself.
            let Ok(answer) = say(&mut connection, &["PING"]) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            // A server with users refuses the command, but is ready.
            if answer.starts_with("+PONG") || answer.starts_with("-NOAUTH") {
                return;
            }
        }
        panic!("redis-server does not start");
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Copies its files.
    pub(crate) fn save(&self) -> PathBuf {
        let copy = self.folder.with_extension("saved");
        copy_files(&self.folder, &copy);
        copy
    }

    pub(crate) fn restore(&self, saved: &Path) {
        std::fs::remove_dir_all(&self.folder).unwrap();
        copy_files(saved, &self.folder);
        std::fs::remove_dir_all(saved).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns the answer to a command, over a connection of its own: the first line, or the
    /// string.
    pub(crate) fn say(&self, words: &[&str]) -> String {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        say(&mut connection, words).unwrap()
    }

    /// Ends all connections of clients, or a random one.
    pub(crate) fn kill_connections(&self, which: impl FnOnce(&[u64]) -> Vec<u64>) {
        let list = self.say(&["CLIENT", "LIST"]);
        let ids: Vec<u64> = list
            .lines()
            .filter(|line| line.contains("name=ssetarget"))
            .filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("id=")))
            .map(|id| id.parse().unwrap())
            .collect();
        for id in which(&ids) {
            self.say(&["CLIENT", "KILL", "ID", &id.to_string()]);
        }
    }

    /// Returns the number of this crate's connections.
    pub(crate) fn connections(&self) -> usize {
        self.say(&["CLIENT", "LIST"])
            .lines()
            .filter(|line| line.contains("name=ssetarget"))
            .count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_files(&path, &copy);
        } else {
            std::fs::copy(&path, copy).unwrap();
        }
    }
}

/// Speaks just enough of the protocol, without the tested crate.
fn say(connection: &mut TcpStream, words: &[&str]) -> io::Result<String> {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command += &format!("${}\r\n{word}\r\n", word.len());
    }
    connection.write_all(command.as_bytes())?;
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.trim_end().to_owned();
    match line.strip_prefix('$').map(str::parse::<usize>) {
        Some(Ok(length)) => {
            let mut text = vec![0; length];
            reader.read_exact(&mut text)?;
            Ok(String::from_utf8(text).unwrap())
        }
        _ => Ok(line),
    }
}

/// Returns a port that nothing listens on. It is below those that the system hands out, so it is still free when a
/// server starts there, or comes back; each process has a range of its own.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const RANGE: u32 = 20;
    const PORTS: u32 = 600 * RANGE;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + ((std::process::id() % 600) * RANGE + tried) % PORTS;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
