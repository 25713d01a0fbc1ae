//! `sim --seed N [--minutes M] [--trace]` runs one seed; `sim --seeds A..B [--jobs J]` runs many.
fn main() {
    let seed = std::env::args().nth(2).and_then(|text| text.parse().ok()).unwrap_or(1);
    let detail =
        if std::env::args().any(|a| a == "--trace") { sim::Detail::Print } else { sim::Detail::Keep(60) };
    let start = std::time::Instant::now();
    let scenario = sim::Scenario::draw(seed, 300 * sim::SECOND);
    let report = sim::World::new(scenario, detail).run();
    for l in &report.last_events {
        println!("{l}");
    }
    println!("{:x} {:?} {:?} {:?}", report.hash, report.violation, report.stats, start.elapsed());
}
