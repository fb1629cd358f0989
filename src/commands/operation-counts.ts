/** How many operations were asked for since the start, and how many found nothing to do: plain numbers, cheap to count. */
export class OperationCounts {
  get = 0;
  getMisses = 0;
  set = 0;
  setMisses = 0;
  remove = 0;
  removeMisses = 0;
  misc = 0;

  /** Counts `asked` sets, and those that did not happen once `result` is known. */
  async ofSet<T>(asked: number, result: Promise<T>): Promise<T> {
    this.set += asked;
    try {
      return await result;
    } catch (error) {
      this.setMisses += asked;
      throw error;
    }
  }

  /** Likewise for removes; `result` is how many records there were. */
  async ofRemove(asked: number, result: Promise<number>): Promise<number> {
    this.remove += asked;
    try {
      const removed = await result;
      this.removeMisses += asked - removed;
      return removed;
    } catch (error) {
      this.removeMisses += asked;
      throw error;
    }
  }
}
