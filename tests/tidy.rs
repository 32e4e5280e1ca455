//! The style that can be checked.

use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
            // What was built stands beside its package.
            if entry.is_dir() && entry.ends_with("target") {
                continue;
            } else if entry.is_dir() {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
                found.push(entry);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(&root.join(folder), &mut found);
    found.sort();
    assert!(!found.is_empty(), "nothing in {folder}");
    let name = |path: &PathBuf| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// Lines of code, without comments and without the tests at a file's end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().enumerate();
    lines.map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

#[test]
fn unsafe_stands_in_three_rooms_and_says_why() {
    for (name, text) in sources("src") {
        let fenced = ["src/pool/", "src/device/uring/", "src/sys/"].iter().any(|room| name.starts_with(room));
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in code(&text) {
            let uses =
                line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl");
            assert!(fenced || !uses, "{name}:{number}: unsafe outside of its rooms");
            if line.contains("unsafe {") || line.contains("unsafe impl") {
                let above = &lines[number.saturating_sub(8)..number];
                assert!(above.iter().any(|line| line.contains("SAFETY:")), "{name}:{number}: no SAFETY line");
            }
        }
    }
}

#[test]
fn files_and_threads_belong_to_the_device() {
    for (name, text) in sources("src") {
        let allowed = ["src/device/", "src/bin/", "src/sys/"].iter().any(|room| name.starts_with(room));
        for (number, line) in code(&text) {
            let touches =
                line.contains("std::fs") || line.contains("fs::File") || line.contains("OpenOptions");
            assert!(allowed || !touches, "{name}:{number}: the simulator would not see this");
        }
    }
}

/// All rooms, the highest first: each may name those below it and none above. `docs/architecture.md` says what
/// is decided in each.
const ROOMS: [&str; 30] = [
    "simulation",
    "ceiling",
    "log",
    "open",
    "instance",
    "moves",
    "tally",
    "queue",
    "consumer",
    "append",
    "read",
    "options",
    "shard",
    "error",
    "stats",
    "notice",
    "admission",
    "router",
    "write",
    "committer",
    "recovery",
    "segment",
    "index",
    "device",
    "pool",
    "format",
    "position",
    "time",
    "sync",
    "sys",
];

/// The room that a file of the library stands in.
fn room(name: &str) -> &str {
    let path = name.strip_prefix("src/").expect("a source");
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

/// What a line names of this crate: `crate::room::Thing`, or `crate::Thing`, which is of the crate's root.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let word = |rest: &'_ str| rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    line.split("crate::").skip(1).map(move |rest| &rest[..word(rest)])
}

#[test]
fn dependencies_point_one_way() {
    let place = |room: &str| ROOMS.iter().position(|other| *other == room);
    let mut used = 0;
    for (name, text) in sources("src") {
        let own = room(&name);
        if matches!(own, "lib" | "bin") || name.contains("/tests") || name.ends_with("random_walk.rs") {
            continue;
        }
        let own_place = place(own).unwrap_or_else(|| panic!("{name}: a room without a place in the order"));
        for (number, line) in code(&text) {
            for other in named(line).filter(|other| *other != own) {
                // The simulator uses the log as its users do, by the names at the crate's root.
                let at_root = other.is_empty() || other.starts_with(char::is_uppercase);
                let public = at_root && own == "simulation";
                let below = place(other).is_some_and(|other| other > own_place);
                assert!(below || public, "{name}:{number}: {own} must not know {other}");
                used += 1;
            }
        }
    }
    assert!(used > 300, "{used} uses seen: does this still read the sources?");
}

/// Whether it reads well in `/some/where: {operation} failed`: a gerund and what it is done to, and no preposition
/// that waits for the path.
fn is_operation(phrase: &str) -> bool {
    let begins = phrase.split(' ').next().is_some_and(|word| word.ends_with("ing"));
    let last = phrase.rsplit(' ').next().unwrap_or_default();
    begins && !["in", "of", "for", "at", "on", "to", "from", "with"].contains(&last)
}

#[test]
fn errors_read_alike_wherever_they_are_made() {
    assert!(is_operation("writing the manifest") && !is_operation("writing the manifest in"));
    assert!(!is_operation("the manifest"));
    let mut seen = 0;
    for (name, text) in sources("src") {
        let text: String = code(&text).map(|(_, line)| line.trim_start().to_owned() + " ").collect();
        // Of a shard that stopped (`Failure`), what failed may also be somebody.
        for maker in [
            "OpenError::at(\"",
            "OpenError::at( \"",
            "map_err(io(\"",
            "path, operation: \"",
            "id, operation: \"",
        ] {
            for rest in text.split(maker).skip(1) {
                let phrase = rest.split('"').next().unwrap();
                assert!(is_operation(phrase), "{name}: `{phrase} failed` does not read well");
                seen += 1;
            }
        }
        let is_test = name.contains("/tests");
        assert!(is_test || !text.contains("to be had"), "{name}: say that it is not available");
    }
    assert!(seen >= 28, "{seen} operations seen: does this still read the sources?");
}

#[test]
fn links_in_the_docs_resolve() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = sources("docs");
    for page in ["README.md", "CHANGELOG.md", "SECURITY.md"] {
        pages.push((page.to_owned(), std::fs::read_to_string(root.join(page)).unwrap()));
    }
    for (name, text) in pages.iter().chain(&sources("src")) {
        for quoted in text.split('`').skip(1).step_by(2) {
            let path = quoted.trim_start_matches("./");
            let is_path = ["docs/", "src/", "tests/", "fuzz/", "examples/", "benches/"]
                .iter()
                .any(|folder| path.starts_with(folder));
            if is_path && !path.contains([' ', '*', '<']) {
                assert!(root.join(path).exists(), "{name} speaks of {path}, which is not there");
            }
        }
    }
}

/// The name of the function that begins in a line.
fn function_name(line: &str) -> Option<&str> {
    let before = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    let mut words = line.split_whitespace().skip_while(|word| before.contains(word));
    let name = words.next().filter(|word| *word == "fn").and_then(|_| words.next())?;
    name.split(['(', '<']).next()
}

/// The functions of a file: line, name, and lines of code between its braces. As `rustfmt` sets them: the brace that
/// ends one stands under the line that begins it.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<(usize, &str)> = code(text).map(|(number, line)| (number, line.trim_end())).collect();
    let mut found = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let mut rest = lines[index..].iter().map(|(_, line)| *line).filter(|line| !line.is_empty());
        // A declaration ends with its head, and a short body in the same line.
        let head = rest.find(|line| line.ends_with(['{', ';', '}']));
        let ends = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        let has_body = head.is_some_and(|head| head.ends_with('{'));
        let body = rest.take_while(|line| !line.starts_with(&ends)).take_while(|_| has_body);
        found.push((*number, name.to_owned(), body.count()));
    }
    found
}

/// As in the sources of the library, but for tests: a function is read in one look.
#[test]
fn functions_are_of_a_size_to_be_read() {
    const LINES_MAX: usize = 70;
    let mut seen = 0;
    for (name, text) in sources("src").into_iter().filter(|(name, _)| !name.contains("/tests")) {
        for (number, function, lines) in functions(&text) {
            assert!(
                lines <= LINES_MAX,
                "{name}:{number}: `{function}` has {lines} lines: what are its parts?"
            );
            seen += 1;
        }
    }
    assert!(seen > 1000, "{seen} functions seen: does this still read the sources?");
}

#[test]
fn the_lines_of_a_function_are_counted() {
    let long = format!(
        "    pub fn long(\n        a: u8,\n    ) -> u8 {{\n{}    }}\n",
        "        a;\n\n        // why\n".repeat(71)
    );
    let text = format!(
        "impl One {{\n    fn short(&self) {{\n        1;\n    }}\n\n    fn line(&self) {{ 1 }}\n\n{long}}}\n"
    );
    let counted: Vec<(String, usize)> =
        functions(&text).into_iter().map(|(_, name, lines)| (name, lines)).collect();
    let wanted = [("short", 1), ("line", 0), ("long", 71)].map(|(name, lines)| (name.to_owned(), lines));
    assert_eq!(counted, wanted);
}

#[test]
fn lines_end_and_files_are_of_a_size_to_be_read() {
    for (name, text) in ["src", "tests", "examples", "benches"].into_iter().flat_map(sources) {
        assert!(text.ends_with('\n'), "{name}");
        let lines = code(&text).count();
        let most = if name.starts_with("src/") && !name.contains("/tests") { 500 } else { 600 };
        assert!(lines <= most, "{name} has {lines} lines: does one idea live there?");
    }
}

/// What an operator looks for in `docs/operations.md` is what the code says.
#[test]
fn the_operations_page_has_messages_as_the_code_words_them() {
    // A text that goes on in the next line does so behind the spaces there.
    let joined = |text: String| text.split("\\\n").map(str::trim_start).collect::<String>();
    let code: String = sources("src").into_iter().map(|(_, text)| joined(text)).collect();
    let pages = sources("docs");
    let (_, page) = pages.iter().find(|(name, _)| name == "docs/operations.md").expect("the page");
    let messages = page.split("## Messages").nth(1).expect("its last part");
    let rows = messages.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut seen = 0;
    for message in rows {
        for part in message.split('…').map(str::trim).filter(|part| part.len() > 2) {
            assert!(code.contains(part), "no source says `{part}`, of `{message}`");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen} texts seen: does this still read the page?");
}
