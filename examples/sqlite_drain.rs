//! A burst that a database could not take: the log accepts it as fast as it comes, and a queue drains it into SQLite,
//! in batches, at a steady rate. The process is killed again and again meanwhile, and in the end the rows are exactly
//! those that were asked for.
//!
//! Every hop may deliver twice, and none may lose:
//!
//! - A client that got no answer sends its order again, with the same id: the log appends it once.
//! - The queue hands out each record at least once: what a killed process had in hand comes again.
//! - A row's key is its order's id, and what else changes with the order changes in the same transaction, only if the
//!   row is new. So an order that comes again changes nothing.
//! - A record is done after its transaction is committed, durably. The other way round a kill in between loses a row.
//!
//! `cargo run --release --example sqlite_drain [ORDERS [PER_SECOND]]` starts the server as a process of its own, kills
//! it in the burst and while it drains, starts it again, and compares all rows in the end. A million orders, drained at
//! 25,000 a second, unless it says otherwise.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use sawmill::error::QueueError;
use sawmill::queue::{Delivery, QueueOptions};
use sawmill::{Log, Options, Record, Write};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the log's queue is called.
const QUEUE: &str = "sqlite";

/// An order: its account is the record's key, its amount the payload, and its id the record's.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    id: i64,
    account: String,
    amount: i64,
}

impl Order {
    /// What the clients ask for; any orders will do, as long as they follow from the id.
    fn of_client(id: i64) -> Order {
        let random = (id as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let account = format!("account:{}", (random >> 33) % 1_000);
        Order { id, account, amount: ((random >> 20) % 10_000) as i64 - 2_500 }
    }

    fn of_record(record: &Record) -> Option<Order> {
        let id = record.id()?.try_into().ok()?;
        let account = std::str::from_utf8(record.key()).ok()?.to_owned();
        let amount = std::str::from_utf8(record.payload()).ok()?.parse().ok()?;
        Some(Order { id, account, amount })
    }

    fn append_to(&self) -> Write<'static> {
        Write::new(self.amount.to_string().into_bytes())
            .key(self.account.clone().into_bytes())
            .id(self.id as u128)
    }
}

/// Accepts the orders from this one on, as fast as the log takes them, and says how far they are durable.
fn accept(log: &Log, from: i64, orders: i64) -> Result<(), Error> {
    // What may be sent twice after a kill, which is not much more, must be known by its ids: `Options::dedup_ids`.
    let mut window = log.window(8_192);
    let mut durable = from;
    let mut answer = || {
        durable += 1;
        if durable % 1_000 == 0 || durable == orders {
            say(&format!("accepted {durable}"));
        }
    };
    for id in from..orders {
        if window.push(Order::of_client(id).append_to())?.is_some() {
            answer();
        }
    }
    for position in &mut window {
        position?;
        answer();
    }
    Ok(())
}

fn database(path: &Path) -> Result<Connection, Error> {
    let rows = Connection::open(path)?;
    // With a write-ahead log, less than FULL does not sync at each commit: a power cut would take rows whose records are
    // done, and come no more.
    rows.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, account TEXT NOT NULL, amount INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS accounts
             (account TEXT PRIMARY KEY, orders INTEGER NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID;",
    )?;
    Ok(rows)
}

/// One transaction for all of a batch, and only then are they done. Returns how many had a row already.
fn drain(rows: &mut Connection, batch: Vec<Delivery>) -> Result<usize, Error> {
    let mut again = 0;
    let mut written = Vec::with_capacity(batch.len());
    let transaction = rows.transaction()?;
    {
        let mut insert =
            transaction.prepare("INSERT INTO orders VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?;
        let mut add = transaction.prepare(
            "INSERT INTO accounts VALUES (?1, 1, ?2)
             ON CONFLICT DO UPDATE SET orders = orders + 1, balance = balance + excluded.balance",
        )?;
        for delivery in batch {
            let Some(Order { id, account, amount }) = Order::of_record(delivery.record()) else {
                // Tried again it would be no better, and all behind it would wait.
                delivery.reject("not an order")?;
                continue;
            };
            match insert.execute((id, &account, amount))? {
                0 => again += 1,
                _ => drop(add.execute((&account, amount))?),
            }
            written.push(delivery);
        }
    }
    transaction.commit()?;
    for delivery in written {
        match delivery.done() {
            // It took too long, and will come again, or has: its row is there.
            Err(QueueError::LeaseLost(_)) => {}
            told => told?,
        }
    }
    Ok(again)
}

/// The server as a process: accepts a burst, and drains what it accepted in this life and before.
fn serve(dir: &Path, from: i64, orders: i64, per_second: f64) -> Result<(), Error> {
    // Retention, if there were any, would wait for the queue.
    let log = Options::new().retain_for([QUEUE]).open(dir.join("log"))?;
    // A kill is an attempt, too, and no fault of the record's.
    let queue = log.queue(QUEUE, QueueOptions::new().rate(per_second).attempts(u32::MAX))?;
    let mut rows = database(&dir.join("orders.db"))?;
    let written: i64 = rows.query_row("SELECT count(*) FROM orders", [], |row| row.get(0))?;
    say(&format!("open {written}"));
    let burst = std::thread::spawn({
        let log = log.clone();
        move || accept(&log, from, orders)
    });
    loop {
        // What came while a transaction was committed goes into the next one: no delay, and the batch grows with load.
        match queue.take_batch(2_000).wait_timeout(Duration::from_millis(50)) {
            Some(batch) => {
                let batch = batch?;
                let taken = batch.len();
                let again = drain(&mut rows, batch)?;
                say(&format!("drained {} {again}", taken - again));
            }
            None if burst.is_finished() && queue.lag().records == 0 => break,
            None => {}
        }
    }
    burst.join().expect("no panic")?;
    // Until the clients leave, somebody may still kill it.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(log.close()?)
}

/// To the clients: one write a line, so that lines of several threads do not mix.
fn say(line: &str) {
    let _ = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}

/// What is known of the server from outside.
struct Clients {
    orders: i64,
    per_second: f64,
    /// The orders below this one were accepted: nobody sends them again.
    accepted: i64,
    /// Rows that the server said were written. There may be more, until it is opened again: who is killed cannot say so.
    drained: i64,
}

impl Clients {
    /// How often an order is still to be accepted or drained.
    fn left(&self) -> i64 {
        2 * self.orders - self.accepted - self.drained
    }

    /// Starts the server and sends it what was not accepted; kills it, if it is to be, some time before half of what is
    /// left is done.
    fn ask(&mut self, dir: &Path, kills: bool) -> Result<(), Error> {
        let mut server = Command::new(std::env::current_exe()?);
        server.arg("serve").arg(dir).args([self.accepted.to_string(), self.orders.to_string()]);
        server.arg(self.per_second.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = server.spawn()?;
        // At the end of its input it closes; one that is to be killed must not come to that.
        let input = server.stdin.take().filter(|_| kills);
        let lines = BufReader::new(server.stdout.take().ok_or("no output")?).lines();
        let (mut again, mut kill_at) = (0, None);
        let (mut accepting, mut draining) = (Speed::new(0), Speed::new(0));
        for line in lines {
            let line = line?;
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["open", rows] => {
                    self.drained = rows.parse()?;
                    (accepting, draining) = (Speed::new(self.accepted), Speed::new(self.drained));
                    kill_at = kills.then(|| self.left() - random(self.left() / 2));
                }
                ["accepted", up_to] => {
                    self.accepted = up_to.parse()?;
                    accepting.reached(self.accepted);
                }
                ["drained", rows, came_again] => {
                    self.drained += rows.parse::<i64>()?;
                    again += came_again.parse::<i64>()?;
                    draining.reached(self.drained);
                }
                _ => return Err(format!("not an answer: {line}").into()),
            }
            if kill_at.is_some_and(|left| self.left() <= left) {
                server.kill()?;
                kill_at = None;
            }
        }
        drop(input);
        let status = server.wait()?;
        assert!(if kills { status.signal() == Some(9) } else { status.success() }, "it ended: {status}");
        println!("{accepting} {draining} {again:6}  {status}");
        Ok(())
    }

    /// Each order is in the log once, and has its row; there are no others, and the balances are what the rows add up to.
    fn check(&self, dir: &Path) -> Result<(), Error> {
        assert_eq!(self.accepted, self.orders);
        let log = Log::open(dir.join("log"))?;
        let records = log.merged(..)?.try_fold(0, |count, record| record.map(|_| count + 1))?;
        let queue = log.queue(QUEUE, QueueOptions::new())?;
        let (left, rejected) = (queue.lag().records, queue.rejected().len());
        log.close()?;
        let rows = Connection::open_with_flags(dir.join("orders.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut select = rows.prepare("SELECT id, account, amount FROM orders ORDER BY id")?;
        let found = select
            .query_map([], |row| Ok(Order { id: row.get(0)?, account: row.get(1)?, amount: row.get(2)? }))?;
        let (mut count, mut balances) = (0, BTreeMap::<String, (i64, i64)>::new());
        for order in found {
            let order = order?;
            assert_eq!(order, Order::of_client(count), "another row than what was asked for");
            count += 1;
            let (orders, balance) = balances.entry(order.account).or_default();
            (*orders, *balance) = (*orders + 1, *balance + order.amount);
        }
        let mut select = rows.prepare("SELECT account, orders, balance FROM accounts")?;
        let found = select.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        assert_eq!(found.collect::<Result<BTreeMap<_, _>, _>>()?, balances, "not what the rows add up to");
        println!("\n{records} records in the log, {count} rows of {} accounts", balances.len());
        assert_eq!((records, count), (self.orders, self.orders), "not once in the log, or not once a row");
        assert_eq!((left, rejected), (0, 0), "not done, or rejected");
        Ok(())
    }
}

/// How many in how long, for the table.
struct Speed {
    first: i64,
    began: Instant,
    last: i64,
    ended: Instant,
}

impl Speed {
    fn new(first: i64) -> Speed {
        let now = Instant::now();
        Speed { first, began: now, last: first, ended: now }
    }

    fn reached(&mut self, count: i64) {
        (self.last, self.ended) = (count, Instant::now());
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.last - self.first;
        let seconds = self.ended.saturating_duration_since(self.began).as_secs_f64();
        let per_second = if count == 0 { 0.0 } else { count as f64 / seconds };
        write!(f, "{count:9} {per_second:10.0}")
    }
}

/// From the entropy of the standard library's hash maps.
fn random(below: i64) -> i64 {
    (RandomState::new().build_hasher().finish() % below.max(1) as u64) as i64
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [serves, dir, from, orders, per_second] = &arguments[..] {
        assert_eq!(serves, "serve");
        return serve(Path::new(dir), from.parse()?, orders.parse()?, per_second.parse()?);
    }
    let orders: i64 = arguments.first().map_or(Ok(1_000_000), |orders| orders.parse())?;
    let per_second: f64 = arguments.get(1).map_or(Ok(25_000.0), |rate| rate.parse())?;
    let dir = tempfile::tempdir()?;
    let mut clients = Clients { orders, per_second, accepted: 0, drained: 0 };
    println!("{:>9} {:>10} {:>9} {:>10} {:>6}", "accepted", "per second", "drained", "per second", "again");
    for _ in 0..5 {
        clients.ask(dir.path(), true)?;
    }
    clients.ask(dir.path(), false)?;
    clients.check(dir.path())
}
