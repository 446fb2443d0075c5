//! seccomp: which system calls the process can still make.
//!
//! A list of what is taken away, not of what is left: the C library changes its ways from version to version, and a call
//! that it needs and we did not think of would be a message that is refused. What is on the list, no version has a use
//! for in a program that serves clients and writes files.
//!
//! To execute a program ends the process: nothing of ours ever does, so it is somebody else who tries, and whoever that
//! is shares the memory with passwords and keys. Everything else fails with EPERM, as it does without rights.
//!
//! The kernel knows for most calls without running the filter that they pass (since Linux 5.11), so it costs nothing
//! worth measuring.

use std::collections::BTreeMap;

use nix::libc::{
    self, AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, CLONE_THREAD, EAFNOSUPPORT, ENOSYS, EPERM, c_long,
};
#[cfg(target_arch = "x86_64")]
use seccompiler::sock_filter;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Starting another program in our place.
const EXECUTING: &[c_long] = &[libc::SYS_execve, libc::SYS_execveat];

/// What has no place in a mail server.
const FORBIDDEN: &[c_long] = &[
    // Looking into other processes.
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    // Becoming somebody else. It has happened, if at all.
    libc::SYS_capset,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
    // Other file systems, other roots, files by handle, devices, rights that are attached to files.
    libc::SYS_chroot,
    libc::SYS_fanotify_init,
    libc::SYS_fsconfig,
    libc::SYS_fsetxattr,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_lsetxattr,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_setxattr,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // The kernel itself, and the parts of it that most often had holes. io_uring would also go past this filter.
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    // The machine's clock and name.
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
];

/// The same, where only one architecture has them.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_mknod,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[c_long] = &[];

/// Kinds of sockets that there is a use for. The last is how the C library learns which addresses this machine has when
/// it looks up a name.
const SOCKET_FAMILIES: &[i32] = &[AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];

/// Puts the filters into force for this thread: what is, or why nothing is.
pub(super) fn confine() -> Result<String, String> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| "no seccomp filter for this architecture".to_owned())?;
    let why = |error: seccompiler::Error| match error {
        seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error) => {
            format!("no seccomp ({error})")
        }
        error => format!("no seccomp ({error})"),
    };
    for program in programs(architecture).map_err(|error| why(error.into()))? {
        seccompiler::apply_filter(&program).map_err(why)?;
    }
    Ok("seccomp".to_owned())
}

/// The filters. The kernel runs all of them, and the severest word counts.
fn programs(architecture: TargetArch) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    type Rules = BTreeMap<c_long, Vec<SeccompRule>>;
    let always = |calls: &[c_long]| -> Rules {
        let calls = calls.iter().map(|call| (*call, Vec::new()));
        calls.collect()
    };
    let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());

    // A new thread is fine, a new process is not.
    let thread = CLONE_THREAD as u64;
    let not_a_thread = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(thread),
        0,
    )?;
    let mut forbidden = always(&[FORBIDDEN, FORBIDDEN_HERE].concat());
    forbidden.insert(libc::SYS_clone, vec![SeccompRule::new(vec![not_a_thread])?]);

    let other_family = SOCKET_FAMILIES.iter().map(|family| {
        let family = u64::from(family.unsigned_abs());
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
    });
    let other_family = SeccompRule::new(other_family.collect::<Result<_, _>>()?)?;

    let filters = [
        (always(EXECUTING), SeccompAction::KillProcess),
        (forbidden, errno(EPERM)),
        // What a new process would be is in memory, where no filter sees it. Told that the kernel does not know the
        // call, the C library takes clone for its threads.
        (always(&[libc::SYS_clone3]), errno(ENOSYS)),
        (
            Rules::from([(libc::SYS_socket, vec![other_family])]),
            errno(EAFNOSUPPORT),
        ),
    ];
    let mut programs = Vec::new();
    for (rules, action) in filters {
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)?;
        programs.push(BpfProgram::try_from(filter)?);
    }
    #[cfg(target_arch = "x86_64")]
    programs.push(no_x32());
    Ok(programs)
}

/// On x86-64 some kernels know every call by a second number, for programs with short pointers (x32). A list of what is
/// forbidden has to forbid all of those, as seccomp(2) says.
#[cfg(target_arch = "x86_64")]
fn no_x32() -> BpfProgram {
    /// `__X32_SYSCALL_BIT` of the kernel.
    const X32_BIT: u32 = 0x4000_0000;
    // Codes of <linux/bpf_common.h> and actions of <linux/seccomp.h>; the number of the call is the first word.
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_IF_AT_LEAST, 0, 1, X32_BIT),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | EPERM.unsigned_abs()),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use nix::libc::{AF_ALG, AF_PACKET, CLONE_NEWUSER, CLONE_VFORK, CLONE_VM};

    use super::*;

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
    const DENIED: u32 = libc::SECCOMP_RET_ERRNO | EPERM as u32;

    /// What the kernel does with a call: the severest word of all filters, as seccomp(2) tells. Knows the instructions
    /// that the filters are made of, and no others.
    fn verdict(programs: &[BpfProgram], architecture: u32, call: c_long, first: u64) -> u32 {
        // struct seccomp_data, in words of four octets.
        let mut data = [0; 16];
        (data[0], data[1]) = (call as u32, architecture);
        (data[4], data[5]) = (first as u32, (first >> 32) as u32);
        let run = |program: &BpfProgram| {
            let (mut at, mut accumulator) = (0, 0_u32);
            loop {
                let step = &program[at];
                let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
                at += 1;
                match step.code {
                    0x20 => accumulator = data[step.k as usize / 4],
                    0x54 => accumulator &= step.k,
                    0x05 => at += step.k as usize,
                    0x15 => at += jump(accumulator == step.k),
                    0x25 => at += jump(accumulator > step.k),
                    0x35 => at += jump(accumulator >= step.k),
                    0x06 => return step.k,
                    other => panic!("instruction {other:#x} at {}", at - 1),
                }
            }
        };
        // The smaller as a signed number, the severer.
        let words = programs.iter().map(run);
        words.min_by_key(|word| *word as i32).unwrap()
    }

    #[test]
    fn what_passes_and_what_does_not() {
        // AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 of <linux/audit.h>.
        for (name, architecture) in [("x86_64", 0xC000_003E), ("aarch64", 0xC000_00B7)] {
            let programs = programs(TargetArch::try_from(name).unwrap()).unwrap();
            let check = |call, first: i32, expected, what: &str| {
                let first = u64::from(first as u32);
                let verdict = verdict(&programs, architecture, call, first);
                assert_eq!(verdict, expected, "{what} on {name}");
            };
            for call in EXECUTING {
                check(*call, 0, libc::SECCOMP_RET_KILL_PROCESS, "executing");
            }
            for call in [FORBIDDEN, FORBIDDEN_HERE].concat() {
                check(call, 0, DENIED, &format!("call {call}"));
            }
            for call in [
                libc::SYS_accept4,
                libc::SYS_bind,
                libc::SYS_connect,
                libc::SYS_exit_group,
                libc::SYS_fdatasync,
                libc::SYS_fsync,
                libc::SYS_futex,
                libc::SYS_mmap,
                libc::SYS_openat,
                libc::SYS_prctl,
                libc::SYS_renameat2,
                libc::SYS_rt_sigaction,
                libc::SYS_sendto,
                libc::SYS_statfs,
                libc::SYS_syncfs,
                libc::SYS_tgkill,
                libc::SYS_write,
            ] {
                check(call, 0, ALLOWED, &format!("call {call}"));
            }
            let thread = CLONE_VM | CLONE_THREAD;
            check(libc::SYS_clone, thread, ALLOWED, "a thread");
            check(libc::SYS_clone, 17, DENIED, "fork");
            check(libc::SYS_clone, CLONE_VM | CLONE_VFORK, DENIED, "vfork");
            check(libc::SYS_clone, CLONE_NEWUSER, DENIED, "a namespace");
            let unknown = libc::SECCOMP_RET_ERRNO | ENOSYS as u32;
            check(libc::SYS_clone3, 0, unknown, "clone3");
            for family in SOCKET_FAMILIES {
                check(
                    libc::SYS_socket,
                    *family,
                    ALLOWED,
                    &format!("family {family}"),
                );
            }
            let no_family = libc::SECCOMP_RET_ERRNO | EAFNOSUPPORT as u32;
            check(libc::SYS_socket, AF_PACKET, no_family, "packets");
            check(libc::SYS_socket, AF_ALG, no_family, "the kernel's ciphers");
        }
    }

    /// The same numbers mean other calls there: on x86-64, 11 is munmap, and execve for a program of 32 bits.
    #[test]
    fn another_architecture_is_the_end() {
        let programs = programs(TargetArch::x86_64).unwrap();
        const AUDIT_ARCH_I386: u32 = 0x4000_0003;
        let verdict = verdict(&programs, AUDIT_ARCH_I386, 11, 0);
        assert_eq!(verdict, libc::SECCOMP_RET_KILL_PROCESS);
    }

    /// 0x4000_0000 + 520 is execve of the x32 kind.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn no_call_has_a_second_number() {
        let programs = programs(TargetArch::x86_64).unwrap();
        for call in [520, libc::SYS_ptrace, libc::SYS_write] {
            let verdict = verdict(&programs, 0xC000_003E, 0x4000_0000 + call, 0);
            assert_eq!(verdict, DENIED, "{call}");
        }
    }
}
