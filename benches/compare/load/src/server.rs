//! The server as the kernel sees it: CPU time and memory of its process and of all that it started.

use std::collections::HashMap;
use std::fs;
use std::io;

/// What Linux counts CPU time in, whatever the kernel's own tick is (USER_HZ).
const TICKS_PER_S: f64 = 100.0;

/// A process and its descendants.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pid: u32,
}

/// Seconds of CPU so far: of the server, of this generator, and of the machine in all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) server: f64,
    pub(crate) generator: f64,
    pub(crate) machine: f64,
}

impl Server {
    pub(crate) fn new(pid: u32) -> io::Result<Self> {
        fs::metadata(format!("/proc/{pid}")).map_err(|_| {
            io::Error::other(format!("there is no process {pid}: is the server up?"))
        })?;
        Ok(Self { pid })
    }

    /// Processes that ended and were waited for are in their parent's time.
    pub(crate) fn cpu(&self) -> io::Result<Cpu> {
        let own = Process::read(std::process::id()).map_or(0, |own| own.ticks);
        let stat = fs::read_to_string("/proc/stat")?;
        let times = stat.lines().next().unwrap_or_default().split_whitespace();
        let times: Vec<u64> = times.skip(1).filter_map(|time| time.parse().ok()).collect();
        // user, nice, system, (idle, iowait,) irq, softirq, steal; what guests take is in user.
        let busy = times
            .iter()
            .take(3)
            .chain(times.iter().skip(5).take(3))
            .sum::<u64>();
        let server = self
            .processes()
            .iter()
            .map(|(_, process)| process.ticks)
            .sum::<u64>();
        let seconds = |ticks: u64| ticks as f64 / TICKS_PER_S;
        Ok(Cpu {
            server: seconds(server),
            generator: seconds(own),
            machine: seconds(busy),
        })
    }

    /// KiB. Memory that several processes share counts once (PSS); that of the kernel, for sockets, does not count.
    pub(crate) fn memory_kib(&self) -> u64 {
        let of_process = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let processes = self.processes();
        processes
            .iter()
            .filter_map(|(pid, _)| of_process(*pid))
            .sum()
    }

    fn processes(&self) -> Vec<(u32, Process)> {
        let mut children: HashMap<u32, Vec<(u32, Process)>> = HashMap::new();
        let names = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            if let Some(process) = Process::read(pid) {
                children
                    .entry(process.parent)
                    .or_default()
                    .push((pid, process));
            }
        }
        let mut found: Vec<_> = Process::read(self.pid)
            .map(|process| (self.pid, process))
            .into_iter()
            .collect();
        let mut next = 0;
        while let Some((pid, _)) = found.get(next) {
            found.extend(children.remove(pid).unwrap_or_default());
            next += 1;
        }
        found
    }
}

#[derive(Debug)]
struct Process {
    parent: u32,
    /// Its own, and those of children that it waited for.
    ticks: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// proc_pid_stat(5). The name in parentheses can hold anything, so fields are counted from its end.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(number(1)?).ok()?,
            ticks: number(11)? + number(12)? + number(13)? + number(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_shift_the_fields() {
        let process =
            Process::parse("7 (a) b (c)) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1")
                .expect("it is one");
        assert_eq!((process.parent, process.ticks), (3, 100));
        assert!(Process::parse("7 (a) S 3").is_none());
    }

    #[test]
    fn a_process_and_its_child_are_found() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("there is sleep");
        let server = Server::new(std::process::id()).expect("this process is there");
        let found = server.processes();
        child.kill().expect("it was there");
        child.wait().expect("it ends");
        assert!(found.iter().any(|(pid, _)| *pid == child.id()));
        assert_eq!(found[0].0, std::process::id());
        assert!(server.memory_kib() > 100);
    }
}
