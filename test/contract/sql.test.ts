import { behaviour } from './behaviour.ts';
import { sqlDriver } from './sql-driver.ts';

behaviour('SQL', sqlDriver);
