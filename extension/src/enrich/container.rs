//! The container that a process runs in, told by its control group.

use std::collections::HashMap;

use crate::value::Text;

/// Container engines name a control group by the container's id: 64 hexadecimal digits (Docker, podman, containerd,
/// CRI-O), alone or as `docker-ID.scope` and the like.
const ID_LENGTH: usize = 64;

/// The id in a control group's path.
fn id_in(path: &str) -> Option<&str> {
    path.rsplit('/').find_map(|component| {
        let name = component.strip_suffix(".scope").unwrap_or(component);
        let id = name.rsplit(['-', ':']).next().unwrap_or(name);
        (id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
    })
}

/// The container of a control group, asked for once a group where a group is one container.
#[derive(Debug, Default)]
pub struct Containers {
    known: HashMap<u64, Option<Text>>,
}

impl Containers {
    /// The container of a process that is in this control group; read from `/proc` unless it is known.
    pub fn of(&mut self, cgroup_id: u64, pid: u32) -> Option<Text> {
        if let Some(known) = self.known.get(&cgroup_id) {
            return known.clone();
        }
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let found = text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(id_in).map(Text::from);
        if is_unified(&text) {
            if self.known.len() >= 4096 {
                self.known.clear();
            }
            self.known.insert(cgroup_id, found.clone());
        }
        found
    }
}

/// Whether all groups of a process are those of the unified hierarchy. Under the older one, containers may share the
/// group whose id the kernel gives us, and must not share their answer.
fn is_unified(text: &str) -> bool {
    text.lines().all(|line| line.starts_with("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_for_all_of_a_group_needs_the_unified_hierarchy() {
        assert!(is_unified("0::/system.slice/x.service\n"));
        assert!(!is_unified("5:memory:/docker/x\n0::/system.slice/containerd.service\n"));
        assert!(!is_unified("5:memory:/docker/x\n"));
    }

    #[test]
    fn ids_are_found_in_the_names_that_engines_use() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for path in [
            format!("/docker/{id}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/machine.slice/libpod-{id}.scope/container"),
            format!("/kubepods.slice/cri-containerd-{id}.scope"),
            format!("/system.slice/containerd.service/kubepods-x:cri-containerd:{id}"),
        ] {
            assert_eq!(id_in(&path), Some(id), "{path}");
        }
        assert_eq!(id_in("/user.slice/user-1000.slice/session-2.scope"), None);
    }
}
