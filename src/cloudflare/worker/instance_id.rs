//! The strings that the platform accepts as an instance's id. Runs in the Worker.

/// Returns whether an instance can have this id. Any other string is answered without waking an object.
pub(super) fn is_instance_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-, */#".contains(&byte);
    !id.is_empty() && id.len() <= 271 && id.bytes().all(allowed)
}

/// Returns whether the platform accepts this id for a new instance.
pub(super) fn is_new_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=100).contains(&id.len()) && !id.starts_with('-') && id.bytes().all(allowed)
}
