/** Random choices that a seed repeats: those of the simulation, for all other tests. */
export { Dice, randomFrom } from '../../src/sim/dice.js';
