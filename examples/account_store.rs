//! An event-sourced account store, which is killed again and again. What it answered is kept, no request is done
//! twice, no balance falls below zero.
//!
//! An account is a key, and its records are what happened to it. Nothing else is stored: a balance is what the
//! records add up to. Two terms of an append keep it right without a lock and without a transaction:
//!
//! - `if_last`: what was decided by the records that were read is appended only if nothing came behind them. Else what
//!   came is read, and decided anew.
//! - `id`: a client that got no answer asks again with the same id, and is told what its first try led to.
//!
//! `cargo run --release --example account_store` plays the clients: it starts the store as a process of its own, kills
//! it in the middle of its work, starts it again, and checks in the end what the log holds.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Write as _};
use std::ops::Bound;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use sawmill::{AppendError, Log, Position, Record, Write};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a client asks for, with an amount.
#[derive(Clone, Copy)]
enum Command {
    Open(u64),
    Deposit(u64),
    Withdraw(u64),
}

/// What happened: the payload of a record. That a command was declined is an event too, so that a retry is told the
/// same, whatever the balance is by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Opened(u64),
    Deposited(u64),
    Withdrawn(u64),
    Declined(u64),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Opened(amount) => write!(f, "opened {amount}"),
            Event::Deposited(amount) => write!(f, "deposited {amount}"),
            Event::Withdrawn(amount) => write!(f, "withdrawn {amount}"),
            Event::Declined(amount) => write!(f, "declined {amount}"),
        }
    }
}

impl Event {
    fn parse(text: &str) -> Option<Event> {
        let (what, amount) = text.split_once(' ')?;
        let event = match what {
            "opened" => Event::Opened,
            "deposited" => Event::Deposited,
            "withdrawn" => Event::Withdrawn,
            "declined" => Event::Declined,
            _ => return None,
        };
        Some(event(amount.parse().ok()?))
    }

    fn of(record: &Record) -> Result<Event, Error> {
        let event = std::str::from_utf8(record.payload()).ok().and_then(Event::parse);
        event.ok_or_else(|| format!("an unknown event at {}", record.position()).into())
    }
}

/// An account as the records up to `last` make it.
#[derive(Default)]
struct Account {
    balance: Option<u64>,
    last: Option<Position>,
}

impl Account {
    /// What a command leads to as things stand here. Whether they still stand so, the log will say.
    fn decide(&self, command: Command) -> Event {
        match (command, self.balance) {
            (Command::Open(amount), None) => Event::Opened(amount),
            (Command::Deposit(amount), Some(_)) => Event::Deposited(amount),
            (Command::Withdraw(amount), Some(balance)) if amount <= balance => Event::Withdrawn(amount),
            (Command::Open(amount) | Command::Deposit(amount) | Command::Withdraw(amount), _) => {
                Event::Declined(amount)
            }
        }
    }

    fn apply(&mut self, position: Position, event: Event) -> Result<(), Error> {
        self.balance = match (event, self.balance) {
            (Event::Opened(amount), None) => Some(amount),
            (Event::Deposited(amount), Some(balance)) => Some(balance + amount),
            (Event::Withdrawn(amount), Some(balance)) if amount <= balance => Some(balance - amount),
            (Event::Declined(_), balance) => balance,
            (event, balance) => return Err(format!("{event} at {position}, with {balance:?}").into()),
        };
        self.last = Some(position);
        Ok(())
    }

    /// Reads what came behind `last`: the first time everything.
    fn catch_up(&mut self, log: &Log, name: &str) -> Result<(), Error> {
        let behind = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        for record in log.read_key(name, (behind, Bound::Unbounded))? {
            let record = record?;
            self.apply(record.position(), Event::of(&record)?)?;
        }
        Ok(())
    }
}

/// One worker's view. Workers share nothing but the log: each knows accounts as far as it has read them, and is told
/// by a conflict where that is not far enough.
struct Store {
    log: Log,
    accounts: HashMap<String, Account>,
}

impl Store {
    /// Does what was asked for, unless an earlier try has done it, and returns once that is durable: what it led to,
    /// whether there was an earlier try, and how often somebody else came in between.
    fn execute(&mut self, request: &Request) -> Result<(Event, bool, u32), Error> {
        let Request { id, account: name, command } = request;
        let account = self.accounts.entry(name.clone()).or_default();
        // Read when it is first asked for, so that a store of many accounts starts at once.
        if account.last.is_none() {
            account.catch_up(&self.log, name)?;
        }
        let mut conflicts = 0;
        loop {
            let event = account.decide(*command);
            let write = Write::new(event.to_string()).key(name).if_last(account.last).id(*id);
            // The commit says whether it is a duplicate; an append that is simply waited for does not.
            let commit = match self.log.append(write).admitted().wait() {
                Err(AppendError::Conflict { .. }) => {
                    conflicts += 1;
                    account.catch_up(&self.log, name)?;
                    continue;
                }
                admitted => admitted?,
            };
            let is_duplicate = commit.is_duplicate();
            // After an error here it is unknown whether the record is kept. The client gets no answer, and asks again
            // once the log was opened anew.
            let position = commit.wait()?;
            if is_duplicate {
                // What counts is what was decided then, not now. The account stays as it is: it has that record, or
                // the next conflict says that it does not.
                return Ok((Event::of(&self.log.get(position)?)?, true, conflicts));
            }
            account.apply(position, event)?;
            return Ok((event, false, conflicts));
        }
    }
}

/// A request, as a line: `ID ACCOUNT VERB AMOUNT`. The id is the client's, random, and the same for each try. The log
/// knows it until `Options::dedup_ids` others came after it in its shard: 65,536 by default.
struct Request {
    id: u128,
    account: String,
    command: Command,
}

impl Request {
    fn parse(line: &str) -> Option<Request> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[id, account, verb, amount] = &words[..] else { return None };
        let command = match verb {
            "open" => Command::Open,
            "deposit" => Command::Deposit,
            "withdraw" => Command::Withdraw,
            _ => return None,
        };
        let (id, command) = (id.parse().ok()?, command(amount.parse().ok()?));
        Some(Request { id, account: account.to_owned(), command })
    }
}

/// The store as a process: requests are lines that come in, answers are lines that go out.
fn serve(dir: &Path) -> Result<(), Error> {
    const WORKERS: usize = 8;
    let log = Log::open(dir)?;
    std::thread::scope(|scope| {
        let worker = || {
            let mut store = Store { log: log.clone(), accounts: HashMap::new() };
            let mut line = String::new();
            while std::io::stdin().read_line(&mut line)? > 0 {
                let request = Request::parse(&line).ok_or("not a request")?;
                let (event, is_retry, conflicts) = store.execute(&request)?;
                println!("{} {is_retry} {conflicts} {event}", request.id);
                line.clear();
            }
            Ok::<(), Error>(())
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    Ok(log.close()?)
}

/// What the clients ask for, each with its id, and the answers that they got.
#[derive(Default)]
struct Clients {
    requests: Vec<(u128, String)>,
    answers: HashMap<u128, Event>,
}

impl Clients {
    /// Starts the store and sends it requests; kills it after so many answers. Returns how many it said were done already.
    fn ask(&mut self, dir: &Path, requests: Vec<String>, kill_after: Option<usize>) -> Result<usize, Error> {
        print!("{:8}", requests.len());
        let mut store = Process::new(std::env::current_exe()?);
        store.arg("serve").arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut store = store.spawn()?;
        let mut input = store.stdin.take().ok_or("no input")?;
        let mut lines = BufReader::new(store.stdout.take().ok_or("no output")?).lines();
        let sender = std::thread::spawn(move || {
            // That it is killed meanwhile is no error.
            let _ = input.write_all(requests.concat().as_bytes());
            // At the end of its input the store closes; one that is to be killed must not come to that.
            kill_after.map(|_| input)
        });
        let (mut answered, mut retries, mut conflicts) = (0, 0, 0);
        loop {
            if kill_after == Some(answered) {
                store.kill()?;
            }
            let Some(line) = lines.next().transpose()? else { break };
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            let &[id, is_retry, met, event] = &words[..] else { return Err("not an answer".into()) };
            let (id, event) = (id.parse()?, Event::parse(event).ok_or("not an event")?);
            assert_eq!(*self.answers.entry(id).or_insert(event), event, "one id, two answers");
            answered += 1;
            retries += usize::from(is_retry.parse::<bool>()?);
            conflicts += met.parse::<u32>()?;
        }
        drop(sender.join().expect("no panic"));
        let (status, is_killed) = (store.wait()?, kill_after.is_some());
        assert!(if is_killed { status.signal() == Some(9) } else { status.success() }, "it ended: {status}");
        println!(" {answered:8} {retries:12} {conflicts:9}  {status}");
        Ok(retries)
    }

    fn unanswered(&self) -> Vec<String> {
        let unanswered = self.requests.iter().filter(|(id, _)| !self.answers.contains_key(id));
        unanswered.map(|(_, line)| line.clone()).collect()
    }

    /// Each request is in the log once, with the answer that its client got, and that answer was right where it stands.
    fn check(&self, dir: &Path) -> Result<(), Error> {
        let mut asked = HashMap::new();
        let mut sums: HashMap<String, i64> = HashMap::new();
        for (id, line) in &self.requests {
            let request = Request::parse(line).ok_or("not a request")?;
            *sums.entry(request.account.clone()).or_default() += match self.answers[id] {
                Event::Opened(amount) | Event::Deposited(amount) => i64::try_from(amount)?,
                Event::Withdrawn(amount) => -i64::try_from(amount)?,
                Event::Declined(_) => 0,
            };
            asked.insert(*id, request);
        }
        println!("\n{:10} {:>8} {:>8} {:>8}", "account", "events", "declined", "balance");
        let log = Log::open(dir)?;
        for name in ACCOUNTS {
            let (mut account, mut events, mut declined) = (Account::default(), 0, 0);
            for record in log.read_key(name, ..)? {
                let record = record?;
                let event = Event::of(&record)?;
                let id = record.id().ok_or("a record without an id")?;
                let request = asked.remove(&id).ok_or("a request was not made, or done twice")?;
                assert_eq!(request.account, name);
                assert_eq!(self.answers[&id], event, "another answer than the client got");
                assert_eq!(account.decide(request.command), event, "not decided by all that came before");
                account.apply(record.position(), event)?;
                events += 1;
                declined += u64::from(matches!(event, Event::Declined(_)));
            }
            let balance = account.balance.ok_or("it was never opened")?;
            assert_eq!(i64::try_from(balance)?, sums[name], "{name}: not what the answers add up to");
            println!("{name:10} {events:8} {declined:8} {balance:8}");
        }
        assert!(asked.is_empty(), "{} requests were answered and are not in the log", asked.len());
        Ok(log.close()?)
    }
}

const ACCOUNTS: [&str; 4] = ["ada", "blaise", "charles", "grace"];

/// From the entropy of the standard library's hash maps; a client of yours would take a UUID.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn request(number: usize) -> (u128, String) {
    let id = u128::from(random()) << 64 | u128::from(random());
    let (account, amount) = (random() as usize % ACCOUNTS.len(), random() % 100);
    let line = match ACCOUNTS.get(number) {
        Some(account) => format!("{id} {account} open {amount}\n"),
        None if random() % 2 == 0 => format!("{id} {} deposit {amount}\n", ACCOUNTS[account]),
        // More than comes in, so many are declined.
        None => format!("{id} {} withdraw {}\n", ACCOUNTS[account], amount * 3 / 2),
    };
    (id, line)
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args_os().skip(1);
    if let (Some(_), Some(dir)) = (arguments.next(), arguments.next()) {
        return serve(Path::new(&dir));
    }
    let dir = tempfile::tempdir()?;
    let mut clients = Clients { requests: (0..1_000).map(request).collect(), ..Clients::default() };
    println!("{:>8} {:>8} {:>12} {:>9}", "requests", "answers", "done already", "conflicts");
    for _ in 0..5 {
        let requests = clients.unanswered();
        // From before it is open until some time in the middle of its work.
        let kill_after = random() as usize % (requests.len() / 3).max(1);
        clients.ask(dir.path(), requests, Some(kill_after))?;
    }
    clients.ask(dir.path(), clients.unanswered(), None)?;
    // Everybody asks once more: nothing is done again, and all are told what they were told before.
    let all: Vec<String> = clients.requests.iter().map(|(_, line)| line.clone()).collect();
    let retries = clients.ask(dir.path(), all, None)?;
    assert_eq!(retries, clients.requests.len(), "some were done again");
    clients.check(dir.path())
}
