// A list of any length in at most 80 elements: rows of one height, each where its number says, that are made once and then
// pointed at what is to be seen.

/** The most rows that are ever in the document. */
export const MOST_ROWS = 80;
const AROUND = 6;

/**
 * @template T what a row shows
 */
export class Pool {
  /**
   * @param {HTMLElement} scroller
   * @param {HTMLElement} space has the height of all rows
   * @param {() => any} make makes a row, `{ element }` and whatever `paint` needs
   * @param {(row: any, item: T, index: number) => void} paint
   */
  constructor(scroller, space, make, paint) {
    this.scroller = scroller;
    this.space = space;
    this.make = make;
    this.paint = paint;
    /** @type {Map<T, any>} */ this.shown = new Map();
    /** @type {any[]} */ this.free = [];
    this.height = 30;
    this.from = 0;
    this.to = 0;
    this.total = -1;
  }

  /**
   * Draws what can be seen.
   * @param {T[]} items
   * @param {(item: T) => number} indexOf where an item is now, or -1
   * @param {T | null} kept an item whose row stays even if it cannot be seen: it has the focus
   */
  draw(items, indexOf, kept) {
    const { scroller, height } = this;
    const all = items.length * height;
    if (all !== this.total) {
      this.total = all;
      this.space.style.height = `${all}px`;
    }
    const first = Math.floor(scroller.scrollTop / height);
    const visible = Math.ceil(scroller.clientHeight / height) + 1;
    const around = Math.max(0, Math.min(AROUND, Math.floor((MOST_ROWS - 1 - visible) / 2)));
    this.from = Math.max(0, Math.min(first, items.length - 1) - around);
    this.to = Math.min(items.length, first + Math.min(visible, MOST_ROWS - 1) + around);

    for (const [item, row] of this.shown) {
      const index = indexOf(item);
      if (index >= this.from && index < this.to) continue;
      if (item === kept && index >= 0) {
        this.#put(row, item, index);
        continue;
      }
      this.shown.delete(item);
      row.item = null;
      this.free.push(row);
    }
    for (let index = this.from; index < this.to; index += 1) {
      const item = items[index];
      let row = this.shown.get(item);
      if (row === undefined) {
        row = this.free.pop();
        if (row === undefined) {
          row = this.make();
          this.space.append(row.element);
        }
        this.shown.set(item, row);
      }
      this.#put(row, item, index);
    }
    for (const row of this.free) if (!row.element.hidden) row.element.hidden = true;
  }

  clear() {
    for (const row of this.shown.values()) {
      row.item = null;
      this.free.push(row);
    }
    this.shown.clear();
  }

  /** Takes its rows out of the document. */
  remove() {
    for (const row of [...this.shown.values(), ...this.free]) row.element.remove();
    this.shown.clear();
    this.free = [];
    this.total = -1;
  }

  /** @param {any} row @param {T} item @param {number} index */
  #put(row, item, index) {
    const y = index * this.height;
    if (row.element.hidden) row.element.hidden = false;
    if (row.y !== y) {
      row.y = y;
      row.element.style.transform = `translateY(${y}px)`;
    }
    row.item = item;
    this.paint(row, item, index);
  }
}
