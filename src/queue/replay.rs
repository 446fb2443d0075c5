//! What the journal knows and the directories may not: brings it back when the queue is opened.
//!
//! Doing it twice, or being interrupted by another crash, does no harm.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::diagnostic::Finding;

use super::disk::{Disk, FileSystem, Machine};
use super::journal::{Journal, Sizes};
use super::layout::Layout;
use super::placing::{Batch, Placer};
use super::{QueueError, fault};

/// The journal, ready for more, and what came out of it.
pub(super) struct Replayed {
    pub(super) journal: Journal,
    pub(super) placer: Placer,
    pub(super) file_system: Box<dyn FileSystem>,
    /// Messages that were brought back.
    pub(super) messages: u64,
    pub(super) findings: Vec<Finding>,
}

pub(super) fn replay(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    sizes: Sizes,
) -> Result<Replayed, QueueError> {
    let root = &layout.root;
    let machine = machine(&**disk)?;
    let mut file_system = disk
        .open_file_system(root)
        .map_err(fault("open the file system of", root))?;
    let (mut placer, intent) = Placer::open(disk, layout, machine.boot)?;
    let announced = intent.map_or(0, |intent| intent.batch);
    let (mut journal, mut opened) =
        Journal::open(disk, &layout.journal, sizes, &machine, announced)?;

    // What a killed process wrote is there as it wrote it; what a machine had in memory is not.
    let survived = intent.filter(|intent| intent.boot == machine.boot);
    let survived = survived.map_or(0, |intent| intent.batch);
    let uncovered = journal.uncovered();
    let mut messages = 0;
    for number in &uncovered {
        let mut records = Vec::new();
        for record in journal.read(*number)? {
            if !placer.is_gone(&record.id)? {
                records.push(record);
            } else if *number > survived {
                // Its removal may not be durable, but then its content is not either.
                placer.remove(&record.id)?;
            }
        }
        if *number <= survived {
            for record in &records {
                messages += u64::from(placer.finish(record)?);
                if placer.is_lost() {
                    placer.rewrite(record)?;
                }
            }
        } else {
            // If there is no room, the journal keeps it and the start fails: whether it was acknowledged cannot be told,
            // since an earlier start may have announced what is before it.
            messages += records.len() as u64;
            placer.restore(&mut Batch::new(*number, records))?;
        }
    }
    if !uncovered.is_empty()
        && let Err(error) = file_system.sync()
    {
        placer.note_lost(true)?;
        return Err(fault("sync the file system of", root)(error));
    }
    if placer.is_lost() {
        placer.note_lost(false)?;
    }
    if journal.finish(&opened, &layout.damaged)? {
        forget_gone(&**disk, &layout.gone)?;
    }
    Ok(Replayed {
        journal,
        placer,
        file_system,
        messages,
        findings: std::mem::take(&mut opened.findings),
    })
}

/// A system that does not say which boot this is gets a new one each time: it is as if the power had been cut.
fn machine(disk: &dyn Disk) -> Result<Machine, QueueError> {
    disk.machine().or_else(|_| {
        let mut boot = [0; 16];
        getrandom::fill(&mut boot).map_err(|error| QueueError::Interrupted(error.to_string()))?;
        Ok(Machine {
            boot,
            host: "unknown".to_owned(),
        })
    })
}

/// All that was removed is out of the journal.
fn forget_gone(disk: &dyn Disk, gone: &Path) -> Result<(), QueueError> {
    for entry in disk.list_directory(gone).map_err(fault("list", gone))? {
        let path = gone.join(entry.name);
        match disk.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fault("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
