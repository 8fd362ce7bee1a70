//! The model behind the table of `docs/scale.md`.

const VIEWERS_PER_OBJECT: u64 = 500;
const FAN_OUT: u64 = 32;
/// 0.128 GB for 3600 seconds, in tenths.
const TENTHS_OF_GB_SECONDS_PER_HOUR: u64 = 4608;

struct Tree {
    levels: u32,
    leaves: u64,
    objects: u64,
}

fn tree(viewers: u64) -> Tree {
    let mut levels = 0;
    while VIEWERS_PER_OBJECT * FAN_OUT.pow(levels) < viewers {
        levels += 1;
    }
    // From the leaves up to the root.
    let mut objects = 0;
    let mut row = viewers.div_ceil(VIEWERS_PER_OBJECT);
    let leaves = if levels == 0 { 0 } else { row };
    for _ in 0..levels {
        assert!(row <= FAN_OUT.pow(levels));
        objects += row;
        row = row.div_ceil(FAN_OUT);
    }
    assert_eq!(row, 1, "one root");
    Tree {
        levels,
        leaves,
        objects: objects + 1,
    }
}

#[test]
fn the_documented_table_is_that_of_the_model() {
    let documented = include_str!("../docs/scale.md");
    for viewers in [500, 10_000, 100_000, 1_000_000] {
        let Tree {
            levels,
            leaves,
            objects,
        } = tree(viewers);
        let cost = (objects * TENTHS_OF_GB_SECONDS_PER_HOUR + 5) / 10;
        let cells = [viewers, levels.into(), leaves, objects, cost].map(grouped);
        let row = format!("| {} |", cells.join(" | "));
        assert!(documented.contains(&row), "not documented: {row}");
    }
}

/// `1234` as `1,234`.
fn grouped(number: u64) -> String {
    if number < 1000 {
        return number.to_string();
    }
    format!("{},{:03}", grouped(number / 1000), number % 1000)
}
